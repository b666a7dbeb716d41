//! A director that is in a cluster: its drivers, its transport and its identity.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use holdfast_schema::cluster::{DirectorId, ReplicaId};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::error::StoreError;
use super::homes::Young;
use super::machines::{ControlMachine, ShardContext, ShardMachine, SinkSlot};
use super::published::{Published, View};
use super::types::{Fsync, StoreConfig};
use crate::codec::disk::Identity;
use crate::codec::wire::Address;
use crate::metrics::Metrics;
use crate::peer::PeerInfo;
use crate::pki::{ClusterId, DirectorKey, Fingerprint};
use crate::raft::{self, DriverConfig, Feed, GroupState, Place, Routes, Running, Surroundings};
use crate::storage::{Database, identity};
use crate::transport::Transport;

/// Where the session groups are kept, below the data directory.
const SESSIONS: &str = "sessions";

/// A driver that may have been stopped.
pub struct Groups {
    /// Its inputs.
    pub handle: raft::Handle,
    /// What its groups show.
    pub states: Vec<Arc<GroupState>>,
    running: Mutex<Option<Running>>,
}

impl Groups {
    fn new(running: Running) -> Groups {
        Groups {
            handle: running.handle.clone(),
            states: running.states.clone(),
            running: Mutex::new(Some(running)),
        }
    }

    /// Ends the driver; waits for the disk, so not on an async thread.
    pub fn stop(&self) {
        if let Some(mut running) = self.running.lock().take() {
            running.stop();
        }
    }
}

/// A member's parts.
pub struct Member {
    /// This director.
    pub me: DirectorId,
    /// Counts its starts.
    pub incarnation: u64,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// The control group.
    pub control: Groups,
    /// The session groups; later than the rest when they wait for a new replica number.
    pub sessions: OnceLock<Groups>,
    /// Changes that wait to be proposed.
    pub feed: Arc<Feed>,
    /// Its part in the keeping of young sessions.
    pub young: Arc<Young>,
    /// How many shards there are.
    pub shards: u16,
    /// Why this director must not go on, if it must not.
    pub fatal: Mutex<Option<String>>,
    /// It is not the director that the cluster knows (any more).
    disowned: Mutex<bool>,
    /// The start has been recorded in the control group.
    pub announced: AtomicU64,
    /// When membership or a planned change last changed, as seen here.
    pub changed: Mutex<Instant>,
    /// Tasks that live as long as the member.
    pub tasks: Mutex<Vec<JoinHandle<()>>>,
    identity: Mutex<Identity>,
    control_db: Database,
    parts: Parts,
}

/// What a member is made with.
#[derive(Clone)]
pub struct Parts {
    /// The settings.
    pub config: StoreConfig,
    /// What is shown of the cluster.
    pub published: Arc<Published>,
    /// Whom the sessions are told to.
    pub sink: SinkSlot,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Parts {
    fn driver(&self, name: &'static str, sync_entries: bool) -> DriverConfig {
        DriverConfig {
            name,
            sync_entries,
            metrics: self.metrics.clone(),
            limits: self.config.limits,
            seed: rand::random(),
        }
    }
}

impl Member {
    /// Starts the control group; the session groups follow with [`Member::start_sessions`].
    pub fn start(
        parts: Parts,
        control_db: Database,
        identity: Identity,
        transport: Arc<dyn Transport>,
    ) -> Result<Member, StoreError> {
        let me = identity.director;
        let place = Place { group: Address::CONTROL, generation: 1, replica: u64::from(me.0) };
        if raft::stored_place(&control_db, place.group)? != Some(place) {
            return Err(control_db.corrupt("the control group's replica is missing"));
        }
        let published = parts.published.clone();
        // Before the log speaks, peers are known from the last time.
        if let Some(cluster) = &identity.cluster {
            let first = ReplicaId(0);
            let form =
                |generation: &u32| crate::codec::disk::ShardForm { generation: *generation, first };
            let shards = identity.generations.iter().map(form).collect();
            let cluster = Arc::new(cluster.as_ref().clone());
            published.publish(View { cluster, shards, ca_key: String::new() });
        }
        let load = {
            let published = published.clone();
            move |records| ControlMachine::load(records, published)
        };
        let config = parts.driver("hf-control", true);
        let group = raft::Group::open(&control_db, place, &config, load)?;
        let shards = identity.generations.len() as u16;
        let inputs = raft::inputs(&parts.metrics);
        let routes = control_routes(&published);
        let around = surroundings(&control_db, &transport);
        let running =
            raft::start(config, vec![group], around, routes, None, inputs).map_err(thread_error)?;
        Ok(Member {
            me,
            incarnation: identity.incarnation,
            transport,
            control: Groups::new(running),
            sessions: OnceLock::new(),
            feed: Arc::new(Feed::new(shards, &parts.config.limits)),
            young: Arc::new(Young::new(me, identity.incarnation, &parts.config.limits)),
            shards,
            fatal: Mutex::new(None),
            disowned: Mutex::new(false),
            announced: AtomicU64::new(0),
            changed: Mutex::new(Instant::now()),
            tasks: Mutex::new(Vec::new()),
            identity: Mutex::new(identity),
            control_db,
            parts,
        })
    }

    /// Starts the session groups with the replica number of the identity.
    pub fn start_sessions(&self) -> Result<(), StoreError> {
        if self.sessions.get().is_none() {
            self.show_sessions(self.open_sessions()?);
        }
        Ok(())
    }

    /// Opens the session groups. Nobody finds them yet.
    pub fn open_sessions(&self) -> Result<Groups, StoreError> {
        let (replica, generations) = {
            let identity = self.identity.lock();
            (identity.replica, identity.generations.clone())
        };
        let db = Database::open(&self.parts.config.data_dir.join(SESSIONS))?;
        let context = ShardContext {
            published: self.parts.published.clone(),
            sink: self.parts.sink.clone(),
            keeping: self.young.keeping.clone(),
            feed: self.feed.clone(),
            metrics: self.parts.metrics.clone(),
        };
        let config = self.parts.driver("hf-sessions", self.parts.config.fsync == Fsync::Always);
        let mut groups = Vec::new();
        for (shard, generation) in generations.iter().enumerate() {
            let group = shard as u16;
            let place = self.place(&db, group, *generation, replica)?;
            let context = context.clone();
            let load = move |records| ShardMachine::load(group, records, context);
            groups.push(raft::Group::open(&db, place, &config, load)?);
        }
        let inputs = raft::inputs(&self.parts.metrics);
        let routes = session_routes(&self.parts.published);
        let feed = Some(self.feed.clone());
        let around = surroundings(&db, &self.transport);
        let running =
            raft::start(config, groups, around, routes, feed, inputs).map_err(thread_error)?;
        Ok(Groups::new(running))
    }

    /// Lets everybody find the session groups.
    pub fn show_sessions(&self, groups: Groups) {
        if self.sessions.set(groups).is_err() {
            tracing::warn!("the session groups were started twice");
        }
        if let Some(sessions) = self.sessions.get() {
            // Members may have changed while the groups were being opened.
            sessions.handle.members(|| session_routes(&self.parts.published));
        }
        self.sink_attached();
    }

    /// Lets the session groups, where they can be found, look for the sink and tell it everything. Said after
    /// each step that may be the last one on the way from a sink to them: it was attached, they were shown,
    /// their member was. So it does not matter in which order these come; to be told twice does no harm.
    pub fn sink_attached(&self) {
        if let Some(sessions) = self.sessions.get() {
            sessions.handle.attached();
        }
    }

    /// The replica on the disk, if it is ours; else a new empty one.
    fn place(
        &self,
        db: &Database,
        group: u16,
        generation: u32,
        replica: ReplicaId,
    ) -> Result<Place, StoreError> {
        let stored = raft::stored_place(db, group)?.filter(|p| p.replica == replica.0);
        match stored {
            Some(place) => Ok(place),
            None => {
                let place = Place { group, generation, replica: replica.0 };
                raft::found_empty(db, place)?;
                Ok(place)
            }
        }
    }

    /// Takes a new replica number (after amnesia) and starts the session groups anew under it.
    pub fn adopt_replica(&self, replica: ReplicaId) -> Result<(), StoreError> {
        let changed = {
            let mut identity = self.identity.lock();
            let changed = identity.replica != replica;
            identity.replica = replica;
            if changed {
                identity::write(&self.control_db, &identity)?;
            }
            changed
        };
        if changed && self.sessions.get().is_some() {
            return Err(self.control_db.corrupt("the replica number changed while it was in use"));
        }
        self.start_sessions()
    }

    /// The cluster's id and its authority's fingerprint, by this director's certificate.
    pub fn authority(&self) -> Result<(ClusterId, Fingerprint), StoreError> {
        let identity = self.identity.lock();
        let wrong = |e: crate::pki::PkiError| self.control_db.corrupt(e);
        let key = DirectorKey::from_pem(&identity.key_pem).map_err(wrong)?;
        let certified = crate::pki::Identity::new(&key, &identity.chain_pem).map_err(wrong)?;
        Ok((certified.cluster(), certified.authority_fingerprint()))
    }

    /// Where sessions are kept.
    pub fn sessions_path(data_dir: &std::path::Path) -> std::path::PathBuf {
        data_dir.join(SESSIONS)
    }

    /// Notes the cluster for the next start.
    pub fn remember(&self, view: &View) -> Result<(), StoreError> {
        let mut identity = self.identity.lock();
        let generations: Vec<u32> = view.shards.iter().map(|f| f.generation).collect();
        let known = identity.cluster.as_ref();
        let same_members = known.is_some_and(|c| c.members == view.cluster.members);
        if same_members && identity.generations == generations {
            return Ok(());
        }
        identity.cluster = Some(Box::new(view.cluster.as_ref().clone()));
        identity.generations = generations;
        identity::write(&self.control_db, &identity)
    }

    /// Tells network and drivers who the members are; those who leave are heard a little longer.
    pub fn follow(&self, view: &View, leaving: impl Iterator<Item = PeerInfo>) {
        let members = view.cluster.members.values().map(PeerInfo::from);
        let members: Vec<PeerInfo> = members.chain(leaving).collect();
        let disowned = self.disowned.lock();
        if *disowned {
            return;
        }
        // In this order: who has a number that was given and is not in the list is told that it was removed.
        self.transport.set_members(&members);
        self.transport.set_numbers_given(DirectorId(view.cluster.next.director));
        drop(disowned);
        self.young.membership(&view.cluster);
        self.control.handle.members(|| control_routes(&self.parts.published));
        if let Some(sessions) = self.sessions.get() {
            sessions.handle.members(|| session_routes(&self.parts.published));
        }
    }

    /// Takes no part any more: says why, once, and lets go of all peers.
    pub fn disown(&self, why: String) {
        let mut disowned = self.disowned.lock();
        if std::mem::replace(&mut *disowned, true) {
            return;
        }
        tracing::error!(why, "this director takes no part in the cluster any more");
        self.fatal.lock().get_or_insert(why);
        self.transport.set_incarnation(0);
        // It is we who go: nobody must hear from us that he was removed.
        self.transport.set_numbers_given(DirectorId(0));
        self.transport.set_members(&[]);
    }

    /// Why it takes no part any more, if so.
    pub fn disowned(&self) -> Option<String> {
        let disowned = *self.disowned.lock();
        self.fatal.lock().clone().filter(|_| disowned)
    }

    /// Whether the start of this run is recorded in the control group.
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed) == self.incarnation
    }

    /// The start has been recorded: from now on heartbeats count.
    pub fn set_announced(&self) {
        self.announced.store(self.incarnation, Ordering::Relaxed);
        self.transport.set_incarnation(self.incarnation);
    }

    /// The director that leads the control group, as far as is known here.
    pub fn control_leader(&self) -> Option<DirectorId> {
        let leader = self.control.states[0].progress().leader;
        (leader != 0).then_some(DirectorId(leader as u32))
    }

    /// Whether this director leads the control group.
    pub fn leads_control(&self) -> bool {
        self.control.states[0].progress().leads
    }

    /// What a shard's replica here shows.
    pub fn shard_state(&self, shard: u16) -> Option<&Arc<GroupState>> {
        self.sessions.get()?.states.get(usize::from(shard))
    }

    /// Why a replica here has stopped, if one has. One that holds sessions is noted as damaged: at
    /// the next start it begins anew, for its disk may lack what it has acknowledged.
    pub fn failure(&self) -> Option<String> {
        let halted = |groups: &Groups| groups.states.iter().find_map(|s| s.halted());
        if let Some(why) = self.sessions.get().and_then(halted) {
            self.note_damage();
            return Some(format!("a replica of the session groups has stopped: {why}"));
        }
        let why = halted(&self.control)?;
        Some(format!("the replica of the control group has stopped: {why}"))
    }

    fn note_damage(&self) {
        let mut identity = self.identity.lock();
        if !identity.damaged {
            identity.damaged = true;
            if let Err(e) = identity::write(&self.control_db, &identity) {
                tracing::error!(%e, "it cannot be noted that this director's sessions are damaged");
            }
        }
    }

    /// Index applied here, per shard.
    pub fn applied(&self) -> Vec<u64> {
        match self.sessions.get() {
            Some(groups) => groups.states.iter().map(|s| s.progress().applied).collect(),
            None => vec![0; usize::from(self.shards)],
        }
    }

    /// Gives leadership away and stops; writes the clean mark if all went well.
    pub async fn stop(self: Arc<Self>) {
        self.tasks.lock().drain(..).for_each(|t| t.abort());
        let all = || {
            let sessions = self.sessions.get().map(|g| g.states.clone()).unwrap_or_default();
            sessions.into_iter().chain(self.control.states.clone())
        };
        let others = self.parts.published.view().is_some_and(|v| v.cluster.members.len() > 1);
        if others {
            self.control.handle.say(raft::Input::Resign);
            if let Some(sessions) = self.sessions.get() {
                sessions.handle.say(raft::Input::Resign);
            }
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until && all().any(|s| s.progress().leads) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let member = self.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(sessions) = member.sessions.get() {
                sessions.stop();
            }
            member.control.stop();
        });
        // A panic of a driver has been reported as a halted group.
        let _ = stopped.await;
        if self.failure().is_none() {
            let mut identity = self.identity.lock();
            identity.clean = true;
            if let Err(e) = identity::write(&self.control_db, &identity) {
                tracing::error!(%e, "no clean mark");
            }
        }
        self.transport.close().await;
    }
}

fn surroundings(db: &Database, transport: &Arc<dyn Transport>) -> Surroundings {
    let runtime = tokio::runtime::Handle::current();
    Surroundings { db: db.clone(), transport: transport.clone(), runtime }
}

fn thread_error(e: std::io::Error) -> StoreError {
    StoreError::Storage { place: "threads".to_owned(), cause: e.to_string() }
}

/// Where the control group's replicas live.
pub fn control_routes(published: &Published) -> Routes {
    let view = published.view();
    let members = view.iter().flat_map(|v| v.cluster.members.keys());
    members.map(|id| (u64::from(id.0), *id)).collect()
}

/// Where the session groups' replicas live.
pub fn session_routes(published: &Published) -> Routes {
    let view = published.view();
    let members = view.iter().flat_map(|v| v.cluster.members.values());
    members.map(|m| (m.replica.0, m.id)).collect()
}
