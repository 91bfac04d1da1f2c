//! The client's address behind proxies.

use std::net::IpAddr;

use enlist_http_warp::peer_address;
use warp::http::request::Parts;

/// The peer's address; if the peer is a trusted proxy, the last address of `X-Forwarded-For` that is none.
///
/// Read from the right: each proxy appends who it heard from, so that whatever a client writes itself stands left of
/// what the first trusted proxy has seen.
pub(super) fn find(head: &Parts, trusted: &[IpAddr]) -> Option<IpAddr> {
    let peer = peer_address(head)?.to_canonical();
    if !trusted.contains(&peer) {
        return Some(peer);
    }
    let values: Vec<_> =
        head.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let mut hops = values.iter().flat_map(|value| value.split(',')).map(|hop| hop.trim().parse::<IpAddr>()).rev();
    hops.find_map(|hop| match hop {
        Ok(hop) if trusted.contains(&hop.to_canonical()) => None,
        Ok(hop) => Some(Some(hop.to_canonical())),
        // Nothing left of what cannot be read can be believed.
        Err(_) => Some(None),
    })
    .unwrap_or(Some(peer))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use enlist_http_warp::PeerAddr;

    use super::*;

    fn found(peer: &str, forwarded: &[&str]) -> Option<String> {
        let mut request = warp::http::Request::builder();
        for value in forwarded {
            request = request.header("x-forwarded-for", *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        head.extensions.insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)));
        let trusted = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        find(&head, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_cannot_forward() {
        assert_eq!(found("192.0.2.9", &["203.0.113.5"]).as_deref(), Some("192.0.2.9"));
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_what_the_client_wrote_is_ignored() {
        assert_eq!(found("10.0.0.1", &["203.0.113.5"]).as_deref(), Some("203.0.113.5"));
        assert_eq!(found("10.0.0.1", &["1.1.1.1, 203.0.113.5", "10.0.0.2"]).as_deref(), Some("203.0.113.5"));
        assert_eq!(found("::ffff:10.0.0.1", &["203.0.113.5"]).as_deref(), Some("203.0.113.5"));
    }

    #[test]
    fn what_cannot_be_read_is_no_address() {
        assert_eq!(found("10.0.0.1", &["203.0.113.5, nonsense"]), None);
        assert_eq!(found("10.0.0.1", &[]).as_deref(), Some("10.0.0.1"));
    }
}
