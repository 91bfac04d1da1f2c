//! A batch: reports that were kept back, each held to its bounds by itself.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::telemetry::report::Report;
use crate::telemetry::validate::parse_report;
use crate::wire::{Code, parse_json};

/// Reports of one batch.
pub const MAX_BATCH: usize = 500;

/// A report of a batch that keeps its bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchItem {
    /// The report.
    pub report: Report,
    /// As many bytes as it has as JSON.
    pub bytes: usize,
}

/// A report of a batch that is refused, and its neighbours are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// When it was measured, if that can be read.
    pub recorded_at: Option<Timestamp>,
    /// Why; the pointer is into the report.
    pub error: FieldError,
}

/// Reads a batch, `{"reports": […]}`, and holds each report to its bounds as [`parse_report`] does.
///
/// # Errors
/// `invalid_json` when it is not JSON at all; `invalid_field` when it has no list of reports; `too_many_reports`. What is
/// wrong with a single report is that report's own error.
pub fn parse_batch(json: &[u8]) -> Result<Vec<Result<BatchItem, Unfit>>, FieldError> {
    #[derive(Deserialize)]
    struct Batch {
        reports: Texts,
    }
    #[derive(Deserialize)]
    struct Time {
        recorded_at: Timestamp,
    }
    let Texts { texts, count } = parse_json::<Batch>(json)?.reports;
    check_batch(count)?;
    let item = |text: Box<RawValue>| {
        let json = text.get().as_bytes();
        match parse_report(json) {
            Ok(report) => Ok(BatchItem { report, bytes: json.len() }),
            // Only what is refused is read twice.
            Err(error) => {
                Err(Unfit { recorded_at: parse_json::<Time>(json).ok().map(|Time { recorded_at }| recorded_at), error })
            }
        }
    };
    Ok(texts.into_iter().map(item).collect())
}

/// Whether a batch may have so many reports; `too_many_reports` if not.
pub(crate) fn check_batch(count: usize) -> Result<(), FieldError> {
    if count <= MAX_BATCH {
        return Ok(());
    }
    Err(FieldError {
        code: Code::TooManyReports,
        field: "/reports".to_owned(),
        detail: format!("at most {MAX_BATCH} reports a batch"),
    })
}

/// The reports of a batch as they were sent: JSON that was not looked into. Of too many only the number is kept.
struct Texts {
    texts: Vec<Box<RawValue>>,
    count: usize,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of reports")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while texts.len() < MAX_BATCH {
                    let Some(text) = list.next_element()? else { return Ok(Texts { count: texts.len(), texts }) };
                    texts.push(text);
                }
                let mut count = texts.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Texts { texts, count })
            }
        }
        deserializer.deserialize_seq(List)
    }
}
