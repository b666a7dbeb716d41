//! Several stores in one process, over a network in memory.
#![allow(dead_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{
    BackendId, ClusterState, ControlCommand, ControlOutcome, DirectorId, ListenerId, MemberState,
};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, Known, SessionChange, SessionFlags, SessionRecord,
    SessionSink, SessionUpdate,
};
use holdfast_state_store::memory::MemoryNetwork;
use holdfast_state_store::{PeerCalls, Store, StoreConfig};
use parking_lot::Mutex;
use tokio::sync::watch;

pub const SHARDS: u16 = 4;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A table that remembers what it was told.
#[derive(Default)]
pub struct Table {
    pub sessions: Mutex<HashMap<FlowKey, SessionRecord>>,
    pub installs: Mutex<Vec<(ShardId, usize)>>,
    cluster: OnceLock<watch::Receiver<Option<Arc<ClusterState>>>>,
}

impl Table {
    /// A table for this store, attached.
    pub fn attach(store: &Store) -> Arc<Table> {
        let table = Arc::new(Table::default());
        // Not the store itself: it would keep itself alive.
        table.cluster.set(store.cluster()).expect("a new table");
        store.attach_sink(table.clone());
        table
    }

    fn shard(&self, record: &SessionRecord) -> Option<ShardId> {
        let cluster = self.cluster.get()?.borrow().clone()?;
        Some(cluster.shards.shard(record.bucket(&cluster.bucket_key)))
    }
}

impl SessionSink for Table {
    fn created(&self, record: &SessionRecord) {
        let mut sessions = self.sessions.lock();
        let newer = sessions.get(&record.key).is_none_or(|kept| {
            kept.incarnation == record.incarnation || record.prevails_over(kept)
        });
        if newer {
            sessions.insert(record.key, record.clone());
        }
    }
    fn updated(&self, update: &SessionUpdate) {
        if let Some(kept) = self.sessions.lock().get_mut(&update.key)
            && kept.incarnation == update.incarnation
        {
            kept.flags = kept.flags.with(update.flags);
        }
    }
    fn expired(&self, key: &FlowKey, incarnation: &Incarnation) {
        self.sessions.lock().retain(|k, r| k != key || r.incarnation != *incarnation);
    }
    fn installed(&self, shard: ShardId, records: &[SessionRecord]) {
        self.installs.lock().push((shard, records.len()));
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, r| self.shard(r) != Some(shard));
        sessions.extend(records.iter().map(|r| (r.key, r.clone())));
    }
    fn twin(&self, first: &SessionRecord) {
        let mut sessions = self.sessions.lock();
        if let Some(own) = sessions.get_mut(&first.key)
            && own.incarnation.isn == first.incarnation.isn
            && !own.flags.established()
            && first.prevails_over(own)
        {
            *own = first.clone();
        }
    }
    fn find(&self, key: &FlowKey) -> Known {
        let sessions = self.sessions.lock();
        let found = sessions.values().find(|r| r.key == *key || r.reply == *key);
        found.map_or(Known::Nobody, |r| Known::Session(Box::new(r.clone())))
    }
}

/// Answers calls with who asked and what.
#[derive(Default)]
pub struct Echo {
    pub messages: Mutex<Vec<(DirectorId, Vec<u8>)>>,
}

impl PeerCalls for Echo {
    fn call(&self, from: DirectorId, mut request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        request.push(from.0 as u8);
        Box::pin(std::future::ready(request))
    }
    fn message(&self, from: DirectorId, message: Vec<u8>) {
        self.messages.lock().push((from, message));
    }
}

pub struct Node {
    pub store: Store,
    pub table: Arc<Table>,
    pub echo: Arc<Echo>,
    pub config: StoreConfig,
    pub dir: Arc<tempfile::TempDir>,
}

impl Node {
    pub fn id(&self) -> DirectorId {
        self.store.me().expect("a member")
    }
    pub fn sessions(&self) -> usize {
        self.table.sessions.lock().len()
    }
    pub fn leads_control(&self) -> bool {
        self.store.groups().first().is_some_and(|g| g.leader == self.store.me())
    }
}

pub struct Lab {
    pub network: MemoryNetwork,
    pub nodes: Vec<Node>,
}

pub fn config(dir: &tempfile::TempDir, number: u16, echo: &Arc<Echo>) -> StoreConfig {
    let listen: SocketAddr = ([127, 0, 0, 1], 20_000 + number).into();
    StoreConfig::new(dir.path().join("data"), format!("d{number}"), listen, echo.clone())
}

impl Lab {
    /// A cluster of so many directors, settled.
    pub async fn new(directors: u16) -> Lab {
        Lab::with(directors, |_| {}).await
    }

    pub async fn with(directors: u16, adjust: impl Fn(&mut StoreConfig)) -> Lab {
        // `RUST_LOG`-like output would need another crate; failing conditions say what they saw.
        let mut lab = Lab { network: MemoryNetwork::new(), nodes: Vec::new() };
        let first = lab.fresh(1, &adjust).await;
        first.store.init_cluster(SHARDS).await.unwrap();
        lab.nodes.push(first);
        for number in 2..=directors {
            lab.add(number, &adjust).await;
        }
        lab.settled().await;
        lab
    }

    pub async fn fresh(&self, number: u16, adjust: impl Fn(&mut StoreConfig)) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let echo = Arc::new(Echo::default());
        let mut config = config(&dir, number, &echo);
        adjust(&mut config);
        self.start(dir, config, echo).await.unwrap()
    }

    pub async fn start(
        &self,
        dir: Arc<tempfile::TempDir>,
        config: StoreConfig,
        echo: Arc<Echo>,
    ) -> Result<Node, holdfast_state_store::StoreError> {
        let store = Store::open_with(config.clone(), Arc::new(self.network.clone())).await?;
        let table = Table::attach(&store);
        Ok(Node { store, table, echo, config, dir })
    }

    pub async fn add(&mut self, number: u16, adjust: impl Fn(&mut StoreConfig)) {
        let node = self.fresh(number, adjust).await;
        let name = format!("d{number}");
        let token = self.nodes[0].store.issue_token(&name, Duration::from_secs(60)).await.unwrap();
        node.store.join(&token).await.unwrap();
        self.nodes.push(node);
        let director = self.nodes.last().unwrap().id();
        let active = ControlCommand::SetState { director, state: MemberState::Active, force: None };
        self.control(active).await;
    }

    pub async fn control(&self, command: ControlCommand) -> ControlOutcome {
        let outcome = self.nodes[0].store.control(command, PATIENCE).await.unwrap();
        assert!(matches!(outcome, ControlOutcome::Done { .. }), "{outcome:?}");
        outcome
    }

    /// All have caught up, and there are as many voters as there should be.
    pub async fn settled(&self) {
        let directors = self.nodes.len().min(5);
        let voters = directors - (directors + 1) % 2;
        self.until("settled", || {
            self.nodes.iter().all(|n| {
                n.store.caught_up().is_ok()
                    && n.store.has_quorum()
                    && n.store.groups().iter().all(|g| {
                        g.voters.len() == voters
                            && g.voters.len() + g.learners.len() == self.nodes.len()
                            && !g.joint
                    })
            })
        })
        .await;
    }

    pub async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done() {
            if Instant::now() > until {
                let seen: Vec<String> = self
                    .nodes
                    .iter()
                    .map(|n| {
                        format!(
                            "{}: sessions {} caught up {:?}\n  {:#?}",
                            n.config.name,
                            n.sessions(),
                            n.store.caught_up(),
                            n.store.groups()
                        )
                    })
                    .collect();
                panic!("never {what}:\n{}", seen.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Proposes sessions again and again until all have them, as a sweep does: a proposal may be lost
    /// on its way to a leader that dies.
    pub async fn create_all(&self, at: usize, numbers: std::ops::Range<u16>, total: usize) {
        let last = Mutex::new(None::<Instant>);
        self.until("created", || {
            let again = last.lock().is_none_or(|at| at.elapsed() > Duration::from_secs(1));
            if again {
                *last.lock() = Some(Instant::now());
                let known = self.nodes[at].table.sessions.lock();
                let missing: Vec<u16> =
                    numbers.clone().filter(|n| !known.contains_key(&key(*n))).collect();
                drop(known);
                missing.into_iter().for_each(|n| self.create(at, n));
            }
            self.nodes.iter().all(|n| n.sessions() == total)
        })
        .await;
    }

    /// The node that leads the control group.
    pub fn leader(&self) -> usize {
        self.nodes.iter().position(|n| n.leads_control()).expect("a leader")
    }

    /// Proposes this session at a node, in its shard.
    pub fn create(&self, at: usize, n: u16) {
        let record = record(n, self.nodes[at].id());
        let cluster = self.nodes[at].store.cluster().borrow().clone().unwrap();
        let shard = cluster.shards.shard(record.bucket(&cluster.bucket_key));
        self.nodes[at].store.propose(shard, vec![SessionChange::Create(record)]).unwrap();
    }

    /// Ends a node as a crash of its machine would: nobody hears it any more.
    pub async fn kill(&mut self, at: usize) -> Node {
        let node = self.nodes.remove(at);
        self.network.isolate(node.id());
        node
    }
}

pub fn key(n: u16) -> FlowKey {
    let client = SocketAddr::from(([192, 0, 2, (n >> 12) as u8], 10_000 + (n & 0xfff)));
    FlowKey::new(Protocol::Tcp, client, "203.0.113.10:80".parse().unwrap())
}

pub fn record(n: u16, owner: DirectorId) -> SessionRecord {
    let flags = SessionFlags::CLIENT_OPENED
        .with(SessionFlags::BACKEND_ANSWERED)
        .with(SessionFlags::ESTABLISHED);
    let half = HalfSeen { age_ms: 0, seq: 1, ack: 1 };
    SessionRecord {
        key: key(n),
        reply: key(n).reversed(),
        incarnation: Incarnation { stamp: 1, creator: owner, counter: u64::from(n), isn: 7 },
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        owner,
        flags,
        created_age_ms: 0,
        idle_timeout_ms: 900_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: half,
        backend_seen: half,
    }
}

/// Tells the homes of this node's young sessions, as the daemon's thread does.
pub struct Owner {
    pub store: Store,
    table: Arc<Table>,
    young: Arc<Mutex<Vec<SessionRecord>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Owner {
    pub fn of(node: &Node) -> Owner {
        let (store, young) = (node.store.clone(), Arc::<Mutex<Vec<SessionRecord>>>::default());
        let (telling, known) = (store.clone(), young.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let Some(registrar) = telling.registrar() else { continue };
                if registrar.begins_walk() {
                    let all = known.lock().clone();
                    registrar.walked(&all, true);
                }
                registrar.send(false);
            }
        });
        Owner { store, table: node.table.clone(), young, task }
    }

    pub fn all(lab: &Lab) -> Vec<Owner> {
        lab.nodes.iter().map(Owner::of).collect()
    }

    /// A session begins here.
    pub fn open(&self, record: SessionRecord) {
        self.young.lock().push(record.clone());
        self.table.sessions.lock().insert(record.key, record.clone());
        self.store.registrar().expect("a member").opened(&[record]);
    }

    /// It says nothing any more.
    pub fn silence(&self) {
        self.task.abort();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.silence();
    }
}
