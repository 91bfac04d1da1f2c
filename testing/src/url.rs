//! URLs as both sqlx and libpq read them.

use std::path::Path;

use crate::Error;

/// The superuser of a cluster of ours.
pub(crate) const USER: &str = "postgres";
/// Part of a socket's name. It is the default, so that no URL has to carry it.
pub(crate) const PORT: u16 = 5432;

/// The URL of a database behind a socket in `directory`.
pub(crate) fn of_socket(directory: &Path, database: &str) -> String {
    format!("postgres://{USER}@localhost/{database}?host={}", directory.display())
}

/// `url` with another database in it. Names of ours need no escape.
pub(crate) fn with_database(url: &str, database: &str) -> Result<String, Error> {
    let (scheme, rest) = url.split_once("://").ok_or(Error::Url("it has no scheme"))?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(Error::Url("it begins with neither `postgres://` nor `postgresql://`"));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split_once('/').map_or(place, |(authority, _)| authority);
    // A parameter would have the last word on the database.
    let query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("dbname=")).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    Ok(format!("{scheme}://{authority}/{database}{separator}{}", query.join("&")))
}

/// Undoes the escapes of a part of a URL.
pub(crate) fn unescape(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_put_into_any_form_of_url() {
        let with = |url: &str| with_database(url, "db").expect(url);
        assert_eq!(with("postgres://u@localhost/x?host=/tmp/a"), "postgres://u@localhost/db?host=/tmp/a");
        assert_eq!(with("postgresql://u:p@h:1"), "postgresql://u:p@h:1/db");
        assert_eq!(with("postgres://h?sslmode=require"), "postgres://h/db?sslmode=require");
        assert_eq!(with("postgres:///x?dbname=y&host=/tmp/a"), "postgres:///db?host=/tmp/a");
    }

    #[test]
    fn another_scheme_is_refused_without_its_text() {
        for url in ["mysql://u:secret@h/x", "u:secret@h"] {
            let error = with_database(url, "db").expect_err(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        assert_eq!(unescape("a%2Fb%20c"), "a/b c");
        assert_eq!(unescape("100%, 5%zz %é"), "100%, 5%zz %é");
        assert_eq!(unescape("%C3%A9"), "é");
    }
}
