//! JSON Pointers (RFC 6901) to what was wrong in a body, of names that its client chose.

/// Goes on to `name`.
pub(crate) fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

/// To `name` in the object at `at`.
pub(crate) fn member(at: &str, name: &str) -> String {
    let mut pointer = at.to_owned();
    push(&mut pointer, name);
    bounded(pointer)
}

/// A name can be as long as the body; nobody needs more of it than this to find it.
pub(crate) fn bounded(pointer: String) -> String {
    match pointer.char_indices().nth(256) {
        Some((end, _)) => format!("{}…", &pointer[..end]),
        None => pointer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_and_no_longer_than_it_needs_to_be() {
        assert_eq!(member("/labels", "a/b~c"), "/labels/a~1b~0c");
        assert_eq!(member("/labels", ""), "/labels/");
        let long = member("/labels", &"é".repeat(1_000_000));
        assert_eq!((long.chars().count(), long.ends_with("é…")), (257, true));
        assert_eq!(member("", &"x".repeat(255)), format!("/{}", "x".repeat(255)));
    }
}
