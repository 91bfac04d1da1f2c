//! Properties of editing a host: it is a merge patch, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{CannotEdit, Host, HostField, LabelKey, LabelValue, Lifecycle, MAX_TAGS, Tag};
use enlist_core::liveness::LivenessWindow;
use enlist_core::wire::{PatchHost, parse_json};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Few enough values that a patch often says what is so already.
fn text<T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[ab]".prop_map(|text| text.parse().expect("a letter is within every bound"))
}

fn labels<V: std::fmt::Debug>(value: impl Strategy<Value = V>) -> impl Strategy<Value = BTreeMap<LabelKey, V>> {
    prop::collection::btree_map(text::<LabelKey>(), value, 0..3)
}

fn window() -> impl Strategy<Value = LivenessWindow> {
    (3..5u64).prop_map(|seconds| LivenessWindow::from_secs(seconds).expect("it is long enough"))
}

fn host() -> impl Strategy<Value = Host> {
    let tags = prop::collection::btree_set(text::<Tag>(), 0..3);
    let placement = (option::of(text()), option::of(text()), option::of(text()));
    (text(), option::of(text()), placement, tags, labels(text()), option::of(window())).prop_map(
        |(name, external_id, (provider, availability_zone, address), tags, labels, liveness_window)| Host {
            name,
            external_id,
            provider,
            availability_zone,
            address,
            tags,
            labels,
            liveness_window,
            cordoned: true,
            generation: 7,
            enrolled_at: Some(at(5)),
            ..sample::host("a")
        },
    )
}

fn patch() -> impl Strategy<Value = PatchHost> {
    let tags = prop::collection::btree_set(text::<Tag>(), 0..3);
    let parts = (
        option::of(text()),
        option::of(option::of(text())),
        option::of(option::of(text())),
        option::of(option::of(text())),
        option::of(option::of(text())),
        option::of(option::of(tags)),
        option::of(option::of(labels(option::of(text::<LabelValue>())))),
        option::of(option::of(window())),
    );
    parts.prop_map(|(name, external_id, provider, availability_zone, address, tags, labels, window)| PatchHost {
        name,
        external_id,
        provider,
        availability_zone,
        address,
        tags,
        labels,
        liveness_window_seconds: window,
    })
}

/// What of a host can be edited, as JSON; what it does not have is absent.
fn editable(host: &Host) -> Value {
    let all = json!({
        "name": host.name, "external_id": host.external_id, "provider": host.provider,
        "availability_zone": host.availability_zone, "address": host.address, "tags": host.tags, "labels": host.labels,
        "liveness_window_seconds": host.liveness_window,
    });
    let Value::Object(fields) = all else { unreachable!("it is written as one") };
    let empty = |value: &Value| value.is_null() || *value == json!([]) || *value == json!({});
    Value::Object(fields.into_iter().filter(|(_, value)| !empty(value)).collect())
}

/// The pseudocode of RFC 7396 §2.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let before = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), merge_patch(before, value));
        }
    }
    Value::Object(target)
}

fn without_empty(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    Value::Object(fields.into_iter().filter(|(_, value)| *value != json!([]) && *value != json!({})).collect())
}

proptest! {
    /// Against the RFC's own algorithm, on JSON.
    #[test]
    fn an_edit_is_the_merge_patch_of_rfc_7396(host in host(), patch in patch()) {
        let json = serde_json::to_value(&patch).unwrap();
        let (edited, _) = host.clone().edit(patch, at(9)).unwrap();
        prop_assert_eq!(editable(&edited), without_empty(merge_patch(editable(&host), &json)));
    }

    #[test]
    fn what_can_not_be_edited_stays_and_what_changed_is_named(host in host(), patch in patch()) {
        let (edited, changed) = host.clone().edit(patch, at(9)).unwrap();
        let fields = [
            (HostField::Name, "name"),
            (HostField::ExternalId, "external_id"),
            (HostField::Provider, "provider"),
            (HostField::AvailabilityZone, "availability_zone"),
            (HostField::Address, "address"),
            (HostField::Tags, "tags"),
            (HostField::Labels, "labels"),
            (HostField::LivenessWindow, "liveness_window_seconds"),
        ];
        let (before, after) = (editable(&host), editable(&edited));
        let other: BTreeSet<_> =
            fields.into_iter().filter(|(_, name)| before.get(name) != after.get(name)).map(|(field, _)| field).collect();
        for (field, name) in fields {
            prop_assert_eq!(serde_json::to_value(field).unwrap(), json!(name));
        }
        prop_assert_eq!(edited.updated_at, if other.is_empty() { host.updated_at } else { at(9) });
        prop_assert_eq!(changed, other);
        let Host { name, external_id, provider, availability_zone, address, tags, labels, liveness_window, updated_at, .. } =
            edited.clone();
        let put_back = Host {
            name,
            external_id,
            provider,
            availability_zone,
            address,
            tags,
            labels,
            liveness_window,
            updated_at,
            ..host
        };
        prop_assert_eq!(put_back, edited, "nothing else was touched");
    }

    #[test]
    fn the_same_patch_a_second_time_changes_nothing(host in host(), patch in patch()) {
        let (once, _) = host.edit(patch.clone(), at(9)).unwrap();
        let (twice, changed) = once.clone().edit(patch, at(10)).unwrap();
        prop_assert_eq!(twice, once);
        prop_assert!(changed.is_empty());
    }

    /// What a client writes is what the server reads: an absent field stays apart from `null`.
    #[test]
    fn a_patch_survives_its_json(patch in patch()) {
        let read: PatchHost = parse_json(&serde_json::to_vec(&patch).unwrap()).unwrap();
        prop_assert_eq!(read, patch);
    }

    #[test]
    fn tagging_and_untagging_change_that_tag_alone(host in host(), tag in text::<Tag>(), tagged: bool) {
        let (edited, changed) = host.clone().tag(tag.clone(), tagged, at(9)).unwrap();
        prop_assert_eq!(edited.tags.contains(&tag), tagged);
        prop_assert_eq!(changed.is_empty(), host.tags.contains(&tag) == tagged);
        let rest = |host: &Host| host.tags.iter().filter(|other| **other != tag).cloned().collect::<Vec<_>>();
        prop_assert_eq!(rest(&edited), rest(&host));
    }
}

#[test]
fn an_archived_host_is_not_edited() {
    let host = Host { lifecycle: Lifecycle::Archived { at: at(1) }, ..sample::host("a") };
    let error = host.clone().edit(PatchHost::default(), at(2)).unwrap_err();
    assert!(matches!(&error, CannotEdit::State(state) if (state.state, state.attempted) == ("archived", "edit")));
    host.tag("t".parse().unwrap(), false, at(2)).unwrap_err();
}

/// A client that resolves a path would ask for the host itself, or for its list of tags.
#[test]
fn a_tag_is_no_step_in_a_path() {
    for text in [".", ".."] {
        assert!(text.parse::<Tag>().is_err());
        let refused = |json: String| parse_json::<PatchHost>(json.as_bytes()).unwrap_err();
        let error = refused(format!(r#"{{"tags": ["eu", "{text}"]}}"#));
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_field", "/tags/1"));
        assert!(text.parse::<LabelKey>().is_ok(), "no path holds a label's key");
    }
    for text in ["...", ".a", "a.", "a/..", "../a", "./", "-"] {
        assert!(text.parse::<Tag>().is_ok(), "{text}");
    }
}

#[test]
fn a_host_has_as_many_tags_and_labels_as_it_may_and_no_more() {
    let tags: BTreeSet<Tag> = (0..MAX_TAGS).map(|n| format!("t{n}").parse().unwrap()).collect();
    let full = Host { tags: tags.clone(), ..sample::host("a") };
    full.clone().tag("t0".parse().unwrap(), true, at(2)).expect("it has that one");
    let refused = |error: CannotEdit| match error {
        CannotEdit::Field(error) => error.field,
        CannotEdit::State(error) => panic!("{error}"),
    };
    assert_eq!(refused(full.tag("one-more".parse().unwrap(), true, at(2)).unwrap_err()), "/tags");
    let label = |n: usize| (LabelKey::new(format!("l{n}")).unwrap(), LabelValue::new("v").unwrap());
    let full = Host { labels: (0..MAX_TAGS).map(label).collect(), ..sample::host("a") };
    let (key, value) = label(MAX_TAGS);
    let more = BTreeMap::from([(key, Some(value))]);
    let patch = |labels: BTreeMap<_, _>| PatchHost { labels: Some(Some(labels)), ..PatchHost::default() };
    assert_eq!(refused(full.clone().edit(patch(more.clone()), at(2)).unwrap_err()), "/labels");
    let swap = more.into_iter().chain([(label(0).0, None)]).collect();
    full.edit(patch(swap), at(2)).expect("one goes for the one that comes");
}
