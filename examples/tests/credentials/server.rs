//! A server over real HTTP that can be killed, and started again over the same store.

use std::sync::{Arc, Mutex, PoisonError};

use enlist_core::access_token::{Issuer, SigningKey};
use enlist_core::agent_token::CredentialKind;
use enlist_core::event::EventBody;
use enlist_core::fleet::{EventFilter, Limits, TokenFilter, TokioTimer};
use enlist_core::host::{HostKind, HostName};
use enlist_core::wire::{AgentTokenBody, AgentTokenStatus, CreateHost};
use enlist_core::{
    Actor, ActorId, AgentTokenId, Fleet, HostId, ManualClock, PlainToken, Store, SystemClock, SystemEntropy, TenantId,
};
use enlist_core::{Clock, Entropy};
use enlist_http_warp::{Response, Routes, StaticBearer};
use enlist_storage_postgres::PgStore;
use enlist_storage_sqlite::SqliteStore;
use enlist_testing::Database;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tower_service::Service as _;
use warp::filters::BoxedFilter;

use crate::faults::Faults;
use crate::store::Killable;

/// Decides whether the reply to the next request is lost.
pub(crate) type Losses = Arc<dyn Fn() -> bool + Send + Sync>;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) faults: Faults,
    pub(crate) root: Actor,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    limits: Limits,
    signing_key: String,
    faults: Faults,
    losses: Losses,
    running: Mutex<Running>,
}

/// One life of the server.
struct Running {
    fleet: Fleet,
    app: BoxedFilter<(Response,)>,
    drivers: JoinHandle<()>,
}

/// What a test runs on: the store, and what has to live as long as it does.
pub(crate) struct Kept {
    pub(crate) store: Arc<dyn Store>,
    _guards: (Option<tempfile::TempDir>, Option<Database>),
}

/// A SQLite file of its own.
pub(crate) async fn sqlite() -> Kept {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&format!("sqlite://{}", directory.path().join("fleet.db").display()))
        .await
        .expect("SQLite opens");
    store.migrate().await.expect("the schema is made");
    Kept { store: Arc::new(store), _guards: (Some(directory), None) }
}

/// A PostgreSQL database of its own.
pub(crate) async fn postgres() -> Kept {
    let database = Database::empty("credentials").await.expect("PostgreSQL runs");
    let store = PgStore::connect(database.url()).await.expect("PostgreSQL answers");
    store.migrate().await.expect("the schema is made");
    Kept { store: Arc::new(store), _guards: (None, Some(database)) }
}

pub(crate) fn no_losses() -> Losses {
    Arc::new(|| false)
}

impl Server {
    pub(crate) async fn start(kept: &Kept, faults: Faults, losses: Losses, limits: Limits) -> Self {
        // The system's time: PostgreSQL makes partitions for the days around it.
        let clock = Arc::new(ManualClock::new(SystemClock::default().now()));
        let signing_key = SigningKey::generate(&SystemEntropy).to_pkcs8_pem().to_string();
        let parts = Parts { store: &kept.store, clock: &clock, limits: &limits, signing_key: &signing_key };
        let running = parts.run(&faults).await;
        let shared = Arc::new(Shared {
            store: Arc::clone(&kept.store),
            clock: Arc::clone(&clock),
            limits,
            signing_key,
            faults: faults.clone(),
            losses,
            running: Mutex::new(running),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let root = Actor::operator(ActorId::new("root").expect("a name"));
        Self { url, clock, faults, root, shared, accepting }
    }

    pub(crate) fn fleet(&self) -> Fleet {
        self.shared.running().fleet.clone()
    }

    /// A host and its install token.
    pub(crate) async fn host(&self, kind: CredentialKind) -> (HostId, PlainToken) {
        let mut name = [0; 8];
        SystemEntropy.fill(&mut name);
        let name = format!("host-{:016x}", u64::from_le_bytes(name));
        let mut request = CreateHost::new(HostName::new(name).expect("a name"), HostKind::Byoc);
        request.credential_kind = kind;
        let fleet = self.fleet();
        let created = fleet.admin(&self.root).create_host(request).await.expect("a host");
        (created.host.id, created.install_token.expect("one was asked for").token)
    }

    pub(crate) async fn tokens(&self, host_id: HostId) -> Vec<AgentTokenBody> {
        let fleet = self.fleet();
        let mut tokens = Vec::new();
        let mut cursor = None;
        loop {
            let filter = TokenFilter { limit: Some(500), cursor };
            let page = fleet.admin(&self.root).list_agent_tokens(host_id, filter).await.expect("a list");
            tokens.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return tokens,
            }
        }
    }

    pub(crate) async fn with_status(&self, host_id: HostId, status: AgentTokenStatus) -> Vec<AgentTokenId> {
        let tokens = self.tokens(host_id).await;
        tokens.into_iter().filter(|token| token.status == status).map(|token| token.id).collect()
    }

    /// The alarms about a host: what an honest holder never causes.
    pub(crate) async fn alarms(&self, host_id: HostId) -> Vec<String> {
        let fleet = self.fleet();
        let filter = EventFilter { host_id: Some(host_id), limit: Some(500), ..EventFilter::default() };
        let mut alarms = Vec::new();
        let mut cursor = None;
        loop {
            let filter = EventFilter { cursor, ..filter.clone() };
            let page = fleet.admin(&self.root).list_events(filter).await.expect("events");
            for event in page.items {
                if let EventBody::EnrolmentContested { .. }
                | EventBody::RotationConflict { .. }
                | EventBody::RotationDisplaced { .. }
                | EventBody::AgentTokenReuseDetected { .. } = event.body
                {
                    alarms.push(event.body.into_parts().0);
                }
            }
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return alarms,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.running().drivers.abort();
    }
}

impl Shared {
    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> Parts<'_> {
        Parts { store: &self.store, clock: &self.clock, limits: &self.limits, signing_key: &self.signing_key }
    }

    /// A request, up to its reply; `None` when the connection breaks instead.
    async fn serve(&self, request: hyper::Request<hyper::body::Incoming>) -> Option<Response> {
        let what = format!("{} {}", request.method(), request.uri().path());
        // A dead server was started again by its supervisor, with nothing in memory.
        if self.faults.server_is_dead() {
            let reborn = self.parts().run(&self.faults).await;
            std::mem::replace(&mut *self.running(), reborn).drivers.abort();
            self.faults.server_lives_again();
        }
        if self.faults.server(format!("server killed before it reads {what}")) {
            return None;
        }
        let app = self.running().app.clone();
        let Ok(reply) = warp::service(app).call(request).await;
        if self.faults.server_is_dead() || self.faults.server(format!("server killed before it answers {what}")) {
            return None;
        }
        if (self.losses)() {
            return None;
        }
        let authenticated =
            reply.status() == 200 && ["/heartbeat", "/self", "/refresh"].iter().any(|path| what.ends_with(path));
        self.faults.answered(authenticated);
        Some(reply)
    }
}

/// What a server is started with.
struct Parts<'a> {
    store: &'a Arc<dyn Store>,
    clock: &'a Arc<ManualClock>,
    limits: &'a Limits,
    signing_key: &'a str,
}

impl Parts<'_> {
    async fn run(&self, faults: &Faults) -> Running {
        let key = SigningKey::from_pkcs8_pem(self.signing_key).expect("one of ours");
        let (fleet, drivers) = Fleet::builder(Killable { inner: Arc::clone(self.store), faults: faults.clone() })
            .clock(Arc::clone(self.clock))
            .limits(self.limits.clone())
            .default_tenant(TenantId::new("acme").expect("a tenant"))
            .access_tokens(Issuer::builder("enlist", "enlist", key).build().expect("an issuer"))
            .build()
            .expect("the limits agree");
        let drivers = tokio::spawn(drivers.run(TokioTimer, std::future::pending()));
        while !fleet.accepts_reports() {
            tokio::task::yield_now().await;
        }
        let auth = StaticBearer::new("unused".to_owned(), Actor::operator(ActorId::new("root").expect("a name")));
        let app = Routes::new(fleet.clone(), auth.expect("a token")).build();
        Running { fleet, app, drivers }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        tokio::spawn(converse(stream, Arc::clone(&shared)));
    }
}

/// Serves a connection until it ends, or breaks in the place of a reply.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { shared.serve(request).await.ok_or("the connection breaks") }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
