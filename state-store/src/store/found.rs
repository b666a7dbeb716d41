//! `cluster init`: a cluster of one begins.

use std::time::SystemTime;

use holdfast_schema::bucket::{BUCKETS, BucketKey};
use holdfast_schema::cluster::{DirectorId, ReplicaId};

use super::Store;
use super::error::StoreError;
use super::machines::control_records;
use super::member::Member;
use super::published::View;
use super::types::Fsync;
use crate::codec::disk::Identity;
use crate::codec::wire::Address;
use crate::control::{self, FOUNDER, Founding};
use crate::pki::{Authority, ClusterId, DirectorKey, PkiError};
use crate::raft::{self, Place};
use crate::storage::{self, Database};

impl Store {
    /// Begins a cluster of one, this director, with so many session groups (1 to 64).
    pub async fn init_cluster(&self, shards: u16) -> Result<(), StoreError> {
        let _alone = self.shared.becoming.lock().await;
        self.must_be_waiting()?;
        let identity = self.found(shards)?;
        let cluster = identity.cluster_id.clone();
        let member = self.begin(identity).await?;
        member.set_announced();
        tracing::info!(%cluster, shards, "a cluster begins");
        Ok(())
    }

    /// Writes a cluster of one to the disk, and who this director is in it.
    pub(super) fn found(&self, shards: u16) -> Result<Identity, StoreError> {
        let config = &self.shared.config;
        if shards == 0 || usize::from(shards) > BUCKETS {
            return Err(StoreError::Storage {
                place: "cluster init".to_owned(),
                cause: format!("{shards} shards; choose 1 to {BUCKETS}"),
            });
        }
        let now = SystemTime::now();
        let cluster = ClusterId::random();
        let made = |e: PkiError| StoreError::Storage {
            place: "the cluster's keys".to_owned(),
            cause: e.to_string(),
        };
        let authority = Authority::create(cluster, now).map_err(made)?;
        let key = DirectorKey::generate().map_err(made)?;
        let me = DirectorId(FOUNDER);
        let issued = authority.sign(&key.request().map_err(made)?, me, now).map_err(made)?;
        let record = control::found(Founding {
            cluster_id: cluster.to_string(),
            bucket_key: BucketKey(rand::random()),
            shards,
            ca_certificate: authority.certificate_pem().to_owned(),
            ca_key: authority.key_pem(),
            name: config.name.clone(),
            address: config.listen,
            key_fingerprint: issued.key_fingerprint,
            connected: config.connected.clone(),
        });
        let replica = ReplicaId(u64::from(FOUNDER));
        let sessions = self.empty_sessions()?;
        for group in 0..shards {
            let place = Place { group, generation: 1, replica: replica.0 };
            raft::bootstrap(&sessions, place, &Vec::new())?;
        }
        drop(sessions);
        let place = Place { group: Address::CONTROL, generation: 1, replica: u64::from(me.0) };
        raft::bootstrap(&self.shared.control_db, place, &control_records(&record))?;
        let identity = Identity {
            cluster_id: cluster.to_string(),
            name: config.name.clone(),
            director: me,
            replica,
            incarnation: 1,
            boot_id: storage::identity::boot_id()?,
            clean: false,
            damaged: false,
            durable: config.fsync == Fsync::Always,
            chain_pem: issued.chain_pem,
            key_pem: key.pem(),
            generations: vec![1; usize::from(shards)],
            cluster: Some(Box::new(View::of(&record).cluster.as_ref().clone())),
        };
        // Last, because it makes this director a member.
        storage::identity::write(&self.shared.control_db, &identity)?;
        Ok(identity)
    }

    pub(super) fn must_be_waiting(&self) -> Result<(), StoreError> {
        let known = storage::identity::read(&self.shared.control_db)?;
        match known {
            None => Ok(()),
            Some(identity) => Err(StoreError::AlreadyMember {
                data_dir: self.shared.config.data_dir.clone(),
                cluster_id: identity.cluster_id,
            }),
        }
    }

    /// The sessions' database without anything in it (an earlier attempt may have left something).
    pub(super) fn empty_sessions(&self) -> Result<Database, StoreError> {
        let path = Member::sessions_path(&self.shared.config.data_dir);
        Database::destroy(&path)?;
        Database::open(&path)
    }
}
