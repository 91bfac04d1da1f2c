//! Who may administer besides the operator of the server: a file of actors, each with the hash of a bearer token.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enlist_core::wire::parse_json;
use enlist_core::{Actor, ActorId, FieldError, Role, TenantId, TokenHash};
use enlist_http_warp::StaticBearer;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

/// Why the actors of a file are not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActorsError {
    /// The file cannot be read.
    #[error("the actors' file {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// It says something else than it should; where, and what is due, but never what stands there.
    #[error("the actors' file {}", .0.display())]
    Invalid(PathBuf, #[source] FieldError),
}

/// `{"actors": […]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActorsFile {
    actors: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: ActorId,
    #[serde(deserialize_with = "hash")]
    token_sha256: TokenHash,
    #[serde(default)]
    operator: bool,
    #[serde(default)]
    grants: BTreeMap<TenantId, Role>,
}

/// Lets in the actors of the file at `path` besides those whom `auth` knows. `taken` is the id of one of those.
pub(super) fn let_in(auth: StaticBearer, path: &Path, taken: &ActorId) -> Result<StaticBearer, ActorsError> {
    let text = fs::read(path).map_err(|error| ActorsError::File(path.to_owned(), error))?;
    read(auth, &text, taken).map_err(|error| ActorsError::Invalid(path.to_owned(), error))
}

fn read(auth: StaticBearer, text: &[u8], taken: &ActorId) -> Result<StaticBearer, FieldError> {
    let ActorsFile { actors } = parse_json(text).map_err(of_the_file)?;
    let mut ids = BTreeSet::from([taken.clone()]);
    actors.into_iter().enumerate().try_fold(auth, |auth, (n, entry)| {
        let Entry { id, token_sha256, operator, grants } = entry;
        let wrong = |field: &str, detail: &str| FieldError::invalid(format!("/actors/{n}{field}"), detail);
        // Events name actors by their ids.
        if !ids.insert(id.clone()) {
            return Err(wrong("/id", "another actor has this id"));
        }
        if operator != grants.is_empty() {
            return Err(wrong("", "either \"operator\": true, or \"grants\" with a role in a tenant at least"));
        }
        auth.and(token_sha256, Actor { id, operator, grants })
            .map_err(|_| wrong("/token_sha256", "another actor has this token"))
    })
}

/// Core speaks of bodies of requests.
fn of_the_file(error: FieldError) -> FieldError {
    FieldError { detail: error.detail.replacen("the body is", "the file is", 1), ..error }
}

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TokenHash, D::Error> {
    use serde::de::Error;
    let hash = TokenHash::from_hex(&String::deserialize(deserializer)?)
        .ok_or_else(|| D::Error::custom("64 hexadecimal digits, as `printf %s \"$TOKEN\" | sha256sum` prints them"))?;
    // Of a variable that was not set.
    let of_nothing: [u8; 32] = Sha256::digest(b"").into();
    if *hash.as_bytes() == of_nothing { Err(D::Error::custom("this is the hash of no token at all")) } else { Ok(hash) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn auth() -> StaticBearer {
        StaticBearer::new("the-administrators".to_owned(), Actor::operator(taken())).unwrap()
    }

    fn taken() -> ActorId {
        ActorId::new("admin").unwrap()
    }

    fn entry(id: &str, token: &str, rest: &str) -> String {
        let hash: [u8; 32] = Sha256::digest(token).into();
        format!(r#"{{"id": "{id}", "token_sha256": "{}", {rest}}}"#, TokenHash::from_bytes(hash).to_hex())
    }

    fn refused(actors: &[String]) -> (String, String) {
        let text = format!(r#"{{"actors": [{}]}}"#, actors.join(", "));
        let error = read(auth(), text.as_bytes(), &taken()).expect_err("it is refused");
        (error.field, error.detail)
    }

    #[test]
    fn actors_are_operators_or_have_roles_in_tenants() {
        let (alice, bob) = (
            entry("alice", "a", r#""grants": {"acme": "owner", "globex": "member"}"#),
            entry("bob", "b", r#""operator": true"#),
        );
        let text = format!(r#"{{"actors": [{alice}, {bob}]}}"#);
        let shown = format!("{:?}", read(auth(), text.as_bytes(), &taken()).expect("it is whole"));
        for part in ["alice", "acme", "Owner", "globex", "Member", "bob"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(read(auth(), br#"{"actors": []}"#, &taken()).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let grants = r#""grants": {"acme": "owner"}"#;
        let good = entry("alice", "a", grants);
        let place = |second: String| refused(&[good.clone(), second]).0;
        assert_eq!(place(entry("alice", "b", grants)), "/actors/1/id");
        assert_eq!(place(entry("admin", "b", grants)), "/actors/1/id", "the administrator's");
        assert_eq!(place(entry("bob", "a", grants)), "/actors/1/token_sha256");
        assert_eq!(place(entry("bob", "the-administrators", grants)), "/actors/1/token_sha256");
        assert_eq!(place(entry("bob", "", grants)), "/actors/1/token_sha256", "of nothing");
        assert_eq!(place(entry("bob", "b", r#""operator": false"#)), "/actors/1");
        assert_eq!(place(entry("bob", "b", r#""grants": {}"#)), "/actors/1");
        assert_eq!(place(entry("bob", "b", &format!(r#""operator": true, {grants}"#))), "/actors/1");
        assert_eq!(place(entry("bob", "b", r#""grants": {"acme": "viewer"}"#)), "/actors/1/grants/acme");
        assert_eq!(place(entry("bob", "b", &format!(r#"{grants}, "token": "canary""#))), "/actors/1/token");
        assert_eq!(place(format!(r#"{{"id": "bob", {grants}}}"#)), "/actors/1/token_sha256");
        assert_eq!(place(format!(r#"{{"token_sha256": "{HASH}", {grants}}}"#)), "/actors/1/id");
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_not_shown() {
        let canary = |entry: &str| {
            let (field, detail) = refused(&[entry.to_owned()]);
            assert!(!format!("{field} {detail}").contains("canary"), "{field}: {detail}");
            detail
        };
        let detail = canary(r#"{"id": "bob", "token_sha256": "canary", "operator": true}"#);
        assert!(detail.contains("sha256sum"), "{detail}");
        canary(&format!(r#"{{"id": "bob", "token_sha256": "{HASH}", "operator": "canary"}}"#));
        canary(&format!(r#"{{"id": "bob", "token_sha256": "{HASH}", "grants": {{"acme": "canary"}}}}"#));
        canary(r#"{"id": ["canary"]}"#);
        assert!(canary(r#"{"id": "canary""#).starts_with("the file is not JSON"));
    }
}
