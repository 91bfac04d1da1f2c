//! A link to the database that can be stopped at a statement: what happens on the wire, made to happen.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Notify;

use super::Server;

/// What becomes of the link when a message holds the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The message waits, the first time, until it is let go.
    Hold,
    /// The message arrives; after it nothing does, either way, and no connection ends.
    Silence,
}

/// A way to a server's database.
pub(crate) struct Link {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    mark: &'static str,
    then: Then,
    reached: AtomicBool,
    held: Notify,
    let_go: Notify,
}

impl Link {
    pub(crate) async fn to(server: &Server, mark: &'static str, then: Then) -> Self {
        let mut hand = server.by_hand().await;
        let (database, user) = (hand.database().await, hand.value("SELECT current_user").await);
        let directory = "SELECT split_part(current_setting('unix_socket_directories'), ',', 1)";
        let (directory, port) = (hand.value(directory).await, hand.value("SELECT current_setting('port')").await);
        let socket = PathBuf::from(directory).join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared { mark, then, reached: AtomicBool::new(false), held: Notify::new(), let_go: Notify::new() };
        let shared = Arc::new(shared);
        tokio::spawn(run(listener, socket, Arc::clone(&shared)));
        Self { url: format!("postgres://{user}@127.0.0.1:{port}/{database}?sslmode=disable"), shared }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until the marked message has come.
    pub(crate) async fn reached(&self) {
        self.shared.held.notified().await;
    }

    pub(crate) fn let_go(&self) {
        self.shared.let_go.notify_one();
    }
}

async fn run(listener: TcpListener, socket: PathBuf, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (from_server, to_server) = UnixStream::connect(&socket).await.unwrap().into_split();
        let (from_client, to_client) = client.into_split();
        tokio::spawn(carry(from_client, to_server, Arc::clone(&shared), true));
        tokio::spawn(carry(from_server, to_client, Arc::clone(&shared), false));
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, shared: Arc<Shared>, asks: bool) {
    let mut buffer = vec![0; 65_536];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if shared.then == Then::Silence && shared.reached.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let marked = asks && String::from_utf8_lossy(&buffer[..length]).contains(shared.mark);
        let first = marked && !shared.reached.swap(true, Ordering::SeqCst);
        if first {
            shared.held.notify_one();
            if shared.then == Then::Hold {
                shared.let_go.notified().await;
            }
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
