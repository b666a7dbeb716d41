//! Opening the data directory, and starting as the member it says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::{ControlCommand, ControlOutcome, RefusalCode, ReplicaId};
use parking_lot::RwLock;

use super::error::{COME_BACK, StoreError};
use super::inbound::Inbox;
use super::member::Member;
use super::published::Published;
use super::quic::Quic;
use super::types::StoreConfig;
use super::{Shared, Store, watch};
use crate::codec::disk::Identity;
use crate::metrics::Metrics;
use crate::storage::identity::{self, LastEnd};
use crate::storage::{self, Database};
use crate::transport::Connector;

/// Where the control group and the identity are kept, below the data directory.
const CONTROL: &str = "control";

/// How long opening waits for the cluster's word on this start before it goes on without.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// One attempt to record a start.
const ATTEMPT: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the data directory. Must be called within a tokio runtime. With an empty directory the
    /// store waits for [`Store::init_cluster`] or [`Store::join`].
    ///
    /// When other members answer within two seconds and refuse this director (its disk is a copy,
    /// or it was removed), that is the error. Without them it goes on with what is on the disk.
    pub async fn open(config: StoreConfig) -> Result<Store, StoreError> {
        Store::open_with(config, Arc::new(Quic)).await
    }

    /// Like [`Store::open`], over another network.
    pub async fn open_with(
        config: StoreConfig,
        connector: Arc<dyn Connector>,
    ) -> Result<Store, StoreError> {
        make_private(&config.data_dir)?;
        let control_db = Database::open(&config.data_dir.join(CONTROL))?;
        let known = identity::read(&control_db)?;
        let shared = Arc::new(Shared {
            config,
            connector,
            published: Arc::new(Published::default()),
            sink: Arc::default(),
            metrics: Arc::new(Metrics::default()),
            control_db,
            member: RwLock::new(None),
            becoming: tokio::sync::Mutex::new(()),
            removing: tokio::sync::Mutex::new(()),
        });
        let store = Store { shared };
        if let Some(identity) = known {
            store.start_again(identity).await?;
        }
        Ok(store)
    }

    /// A member's start with what is on its disk.
    async fn start_again(&self, mut identity: Identity) -> Result<(), StoreError> {
        let shared = &self.shared;
        if identity.name != shared.config.name {
            return Err(StoreError::Identity {
                name: shared.config.name.clone(),
                cause: format!(
                    "data directory {} belongs to director {}",
                    shared.config.data_dir.display(),
                    identity.name
                ),
                remedy: "correct `id` or `data-dir` in the node file".to_owned(),
            });
        }
        let boot_id = storage::identity::boot_id()?;
        let durable = shared.config.fsync == super::types::Fsync::Always;
        let mut end = identity::begin_run(&mut identity, &boot_id, durable);
        let sessions = Member::sessions_path(&shared.config.data_dir);
        if !sessions.exists() {
            // Whatever took it, the memory is gone.
            end = LastEnd::Amnesia;
        }
        if end == LastEnd::Amnesia {
            tracing::warn!(
                "what the disk holds of sessions cannot be trusted after the last end: they are \
                 fetched anew"
            );
            identity.replica = ReplicaId(0);
            // Noted before the data goes: should we die here, it is amnesia still.
            identity::write(&shared.control_db, &identity)?;
            Database::destroy(&sessions)?;
        } else {
            identity::write(&shared.control_db, &identity)?;
        }
        let unclean = end != LastEnd::Clean;
        let member = self.begin(identity).await?;
        let store = self.clone();
        let announcing = tokio::spawn(async move { store.announce(member, unclean).await });
        match tokio::time::timeout(FIRST_WORD, announcing).await {
            Ok(Ok(Err(e @ StoreError::Identity { .. }))) => {
                // Refused for good: nothing keeps running under this identity.
                let member = shared.member.write().take();
                if let Some(member) = member {
                    member.stop().await;
                }
                Err(e)
            }
            // Recorded, or still being tried: the task goes on by itself.
            _ => Ok(()),
        }
    }

    /// Starts transport, groups and tasks.
    pub(super) async fn begin(&self, identity: Identity) -> Result<Arc<Member>, StoreError> {
        let shared = &self.shared;
        let inbox = Arc::new(Inbox::new(Arc::downgrade(shared)));
        let transport = shared.connector.bind(shared.config.listen, &identity, inbox)?;
        let waits_for_replica = identity.replica == ReplicaId(0);
        let started =
            Member::start(shared.parts(), shared.control_db.clone(), identity, transport.clone());
        let member = match started {
            Ok(member) => Arc::new(member),
            Err(e) => {
                transport.close().await;
                return Err(e);
            }
        };
        if !waits_for_replica && let Err(e) = member.start_sessions() {
            member.stop().await;
            return Err(e);
        }
        self.show(&member);
        watch::start(self, &member);
        Ok(member)
    }

    /// Lets everybody find the member, and tells it what was said before.
    pub(super) fn show(&self, member: &Arc<Member>) {
        *self.shared.member.write() = Some(member.clone());
        if let Some(view) = self.shared.published.view() {
            member.follow(&view, std::iter::empty());
        }
        member.sink_attached();
    }

    /// Records this start in the control group, however long that takes.
    async fn announce(&self, member: Arc<Member>, unclean: bool) -> Result<(), StoreError> {
        let amnesiac = member.sessions.get().is_none();
        let command = ControlCommand::Started {
            director: member.me,
            address: self.shared.config.listen,
            unclean,
            amnesiac,
            connected: self.shared.config.connected.clone(),
        };
        let request = super::command::new_request();
        loop {
            let outcome =
                self.control_as(request, command.clone(), member.incarnation, ATTEMPT).await;
            match outcome {
                Ok(ControlOutcome::Done { number, .. }) => {
                    let replica = ReplicaId(number.unwrap_or_default());
                    if let Err(e) = member.adopt_replica(replica) {
                        tracing::error!(%e, "session groups cannot be started");
                        member.fatal.lock().get_or_insert(e.to_string());
                        return Err(e);
                    }
                    member.set_announced();
                    return Ok(());
                }
                Ok(ControlOutcome::Refused(refusal)) => {
                    let (cause, remedy) = match refusal.code {
                        RefusalCode::NotFound => (
                            "this director was removed from the cluster".to_owned(),
                            COME_BACK.to_owned(),
                        ),
                        _ => (refusal.message.clone(), refusal.hint.clone()),
                    };
                    member.disown(cause.clone());
                    return match refusal.code {
                        RefusalCode::NotAllowed | RefusalCode::NotFound | RefusalCode::Exists => {
                            let name = self.shared.config.name.clone();
                            Err(StoreError::Identity { name, cause, remedy })
                        }
                        _ => Err(StoreError::Refused(refusal)),
                    };
                }
                Err(StoreError::NotMember | StoreError::Closed) => return Err(StoreError::Closed),
                Err(StoreError::Disowned(cause)) => {
                    return Err(StoreError::Identity {
                        name: self.shared.config.name.clone(),
                        cause,
                        remedy:
                            "to bring this machine back, empty its data directory and start it \
                                 with a join token from `holdfast node add`"
                                .to_owned(),
                    });
                }
                Err(e) => tracing::info!(%e, "the start is not recorded yet"),
            }
        }
    }
}

/// The directory holds a private key: nobody else may look inside.
fn make_private(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |e: std::io::Error| StoreError::Storage {
        place: dir.display().to_string(),
        cause: format!("{e}; check that the directory can be created and written"),
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}
