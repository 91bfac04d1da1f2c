//! Hosts of an Enlist server, by its own API.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::Client;
use crate::Error;

/// How many enrol at a time.
const AT_A_TIME: u32 = 16;

/// Creates hosts and exchanges their install tokens; the agent token of each, by its number.
///
/// # Errors
/// With the answer that was not the expected one.
pub async fn enrol(address: SocketAddr, admin_token: &str, hosts: u32) -> Result<Arc<[String]>, Error> {
    let admin_token: Arc<str> = admin_token.into();
    let mut tasks = JoinSet::new();
    for first in 0..AT_A_TIME.min(hosts) {
        let admin_token = Arc::clone(&admin_token);
        tasks.spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut tokens = Vec::new();
            for host in (first..hosts).step_by(AT_A_TIME as usize) {
                tokens.push((host, enrol_one(&mut client, &admin_token, host).await?));
            }
            Ok::<_, Error>(tokens)
        });
    }
    let mut tokens = vec![String::new(); hosts as usize];
    while let Some(enrolled) = tasks.join_next().await {
        for (host, token) in enrolled?? {
            tokens[host as usize] = token;
        }
    }
    Ok(tokens.into())
}

async fn enrol_one(client: &mut Client, admin_token: &str, host: u32) -> Result<String, Error> {
    let create = json!({ "name": format!("host-{host}"), "kind": "managed" });
    let created = send(client, "/v1/hosts", admin_token, &create).await?;
    let exchange = json!({ "install_token": created["install_token"]["token"] });
    let exchanged = send(client, "/v1/install-tokens/exchange", "", &exchange).await?;
    let token = exchanged["agent_token"]["token"].as_str();
    Ok(token.ok_or("the exchange gave no agent token")?.to_owned())
}

async fn send(client: &mut Client, path: &str, token: &str, body: &Value) -> Result<Value, Error> {
    let (status, reply) = client.post(path, token, Bytes::from(body.to_string())).await?;
    if !status.is_success() {
        return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&reply)).into());
    }
    Ok(serde_json::from_slice(&reply)?)
}
