//! Joining a cluster: the newcomer's side, and the members'.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use holdfast_schema::cluster::{ControlCommand, ControlOutcome, DirectorId, Refusal};

use super::Store;
use super::ask::confirm;
use super::command::{Attempt, heard, new_request};
use super::error::StoreError;
use super::types::Fsync;
use crate::codec::disk::Identity;
use crate::codec::wire::{Address, JoinAnswer, JoinAsk, Proposal, Request, Response};
use crate::control::Admission;
use crate::pki::{Authority, ClusterId, DirectorKey, JoinToken, PkiError, sha256};
use crate::raft::{self, Place};
use crate::{codec, control, pki, storage};

/// How long a newcomer tries.
const PATIENCE: Duration = Duration::from_secs(60);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// How long the leader tries to commit a join.
const COMMIT: Duration = Duration::from_secs(5);

/// Where a joiner keeps its key until it is a member.
fn key_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("joining")
}

/// The key of an earlier attempt, or a new one. It is on the disk before anybody is shown it: should
/// this director die after it was taken in, it is known by this key when it asks again.
fn joiners_key(folder: &Path) -> Result<DirectorKey, PkiError> {
    if let Some(key) = DirectorKey::load(folder)? {
        return Ok(key);
    }
    let key = DirectorKey::generate()?;
    key.save(folder)?;
    Ok(key)
}

impl Store {
    /// Joins a cluster with a token from `holdfast node add`.
    pub async fn join(&self, token: &str) -> Result<(), StoreError> {
        let _alone = self.shared.becoming.lock().await;
        self.must_be_waiting()?;
        let token: JoinToken =
            token.trim().parse().map_err(|e: pki::TokenError| StoreError::Join(e.to_string()))?;
        let config = &self.shared.config;
        if token.name != config.name {
            return Err(StoreError::Join(format!(
                "the token is for director `{}`, the node file says `{}`; correct `id` there, or issue \
                 a token for that name",
                token.name, config.name
            )));
        }
        let folder = key_folder(&config.data_dir);
        let key = joiners_key(&folder).map_err(|e| StoreError::Join(e.to_string()))?;
        let ask = JoinAsk {
            request: new_request(),
            name: config.name.clone(),
            secret: token.secret,
            address: config.listen,
            signing_request: key.request().map_err(|e| StoreError::Join(e.to_string()))?,
            connected: config.connected.clone(),
            hops: 0,
        };
        let answer = self.ask_until_answered(&token, &ask).await?;
        let (director, chain_pem, cluster, generations) = match answer {
            JoinAnswer::Welcome { director, chain_pem, cluster, generations } => {
                (director, chain_pem, cluster, generations)
            }
            JoinAnswer::Refused(why) | JoinAnswer::Again(why) => return Err(StoreError::Join(why)),
        };
        pki::Identity::new(&key, &chain_pem).map_err(|e| StoreError::Join(e.to_string()))?;
        let replica = match cluster.members.get(&director) {
            Some(member) => member.replica,
            None => return Err(StoreError::Join("the members do not know us".to_owned())),
        };
        drop(self.empty_sessions()?);
        let place =
            Place { group: Address::CONTROL, generation: 1, replica: u64::from(director.0) };
        raft::found_empty(&self.shared.control_db, place)?;
        let identity = Identity {
            cluster_id: cluster.cluster_id.clone(),
            name: config.name.clone(),
            director,
            replica,
            incarnation: 1,
            boot_id: storage::identity::boot_id()?,
            clean: false,
            damaged: false,
            durable: config.fsync == Fsync::Always,
            chain_pem,
            key_pem: key.pem(),
            generations,
            cluster: Some(cluster),
        };
        storage::identity::write(&self.shared.control_db, &identity)?;
        // The identity has the key now. A leftover is of no use to anybody.
        let _ = std::fs::remove_dir_all(&folder);
        let member = self.begin(identity).await?;
        member.set_announced();
        tracing::info!(%director, "joined the cluster");
        Ok(())
    }

    async fn ask_until_answered(
        &self,
        token: &JoinToken,
        ask: &JoinAsk,
    ) -> Result<JoinAnswer, StoreError> {
        let until = Instant::now() + PATIENCE;
        let body = Bytes::from(codec::encode(ask));
        loop {
            let asked = self.shared.connector.ask_to_join(token.clone(), body.clone(), ATTEMPT);
            let cause = match asked.await {
                Ok(bytes) => match codec::decode::<JoinAnswer>(&bytes) {
                    Ok(JoinAnswer::Again(why)) => why,
                    Ok(answer) => return Ok(answer),
                    Err(e) => return Err(StoreError::Join(e.to_string())),
                },
                Err(why) => why,
            };
            if Instant::now() + PAUSE > until {
                return Err(StoreError::Join(cause));
            }
            tracing::info!(cause, "not joined yet");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A member's answer to a stranger: the leader's, if there is one.
    pub(super) async fn serve_join(&self, ask: JoinAsk) -> JoinAnswer {
        let Ok(member) = self.member() else {
            return JoinAnswer::Again("this director is not in a cluster".to_owned());
        };
        if member.leads_control() {
            return self.decide_join(&member, &ask).await;
        }
        let Some(leader) = member.control_leader().filter(|l| *l != member.me && ask.hops < 2)
        else {
            return JoinAnswer::Again("the control group has no leader at the moment".to_owned());
        };
        let passed = Request::Join(Box::new(JoinAsk { hops: ask.hops + 1, ..ask }));
        match self.request(&member, leader, &passed, ATTEMPT).await {
            Ok(Response::Join(answer)) => *answer,
            Ok(other) => JoinAnswer::Again(super::unexpected(leader, &other).to_string()),
            Err(e) => JoinAnswer::Again(e.to_string()),
        }
    }

    /// The leader judges secret and expiry, proposes, and signs. Nothing is written or signed for
    /// somebody without an open slot.
    async fn decide_join(&self, member: &super::Member, ask: &JoinAsk) -> JoinAnswer {
        let secret_hash = sha256(&ask.secret);
        let now = SystemTime::now();
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let judge = || {
            let view = self.shared.published.view()?;
            let key = || Authority::requested_key(&ask.signing_request).ok();
            let admission = control::admit(&view.cluster, &ask.name, &secret_hash, now_s, key);
            Some((view, admission))
        };
        let mut judged = judge();
        if matches!(judged, Some((_, Err(_)))) {
            // A new leader may not have applied yet what was committed before: a slot, for example.
            if !confirm(&member.control, Address::CONTROL).await {
                return JoinAnswer::Again("the leader changed".to_owned());
            }
            judged = judge();
        }
        let (view, admission) = match judged {
            Some((view, Ok(admission))) => (view, admission),
            Some((_, Err(refusal))) => return refused(&refusal),
            None => return JoinAnswer::Again("the control group is starting".to_owned()),
        };
        let Ok(cluster_id) = view.cluster.cluster_id.parse::<ClusterId>() else {
            return JoinAnswer::Refused("the cluster's id is damaged".to_owned());
        };
        let authority =
            match Authority::load(&view.cluster.ca_certificate, &view.ca_key, cluster_id) {
                Ok(authority) => authority,
                Err(e) => return JoinAnswer::Refused(format!("the cluster's authority: {e}")),
            };
        let sign = |director| authority.sign(&ask.signing_request, director, now);
        let director = match admission {
            Admission::Again(director) if heard(member, director, None) => {
                // Or it died a moment ago.
                return JoinAnswer::Again(format!(
                    "director {} is running elsewhere with this key (do not copy a data directory; \
                     begin with an empty one)",
                    ask.name
                ));
            }
            Admission::Again(director) => director,
            Admission::Open => {
                // The number is not known yet; this only checks the request and names the key.
                let key_fingerprint = match sign(DirectorId::default()) {
                    Ok(issued) => issued.key_fingerprint,
                    Err(e) => return JoinAnswer::Refused(e.to_string()),
                };
                match self.propose_join(member, ask, secret_hash, key_fingerprint).await {
                    Ok(director) => director,
                    Err(answer) => return answer,
                }
            }
        };
        let Some(view) = self.shared.published.view() else {
            return JoinAnswer::Again("the control group is starting".to_owned());
        };
        match sign(director) {
            Ok(issued) => JoinAnswer::Welcome {
                director,
                chain_pem: issued.chain_pem,
                cluster: Box::new(view.cluster.as_ref().clone()),
                generations: view.shards.iter().map(|f| f.generation).collect(),
            },
            Err(e) => JoinAnswer::Refused(e.to_string()),
        }
    }

    /// Proposes the join of somebody who showed the secret of an open slot.
    async fn propose_join(
        &self,
        member: &super::Member,
        ask: &JoinAsk,
        secret_hash: [u8; 32],
        key_fingerprint: [u8; 32],
    ) -> Result<DirectorId, JoinAnswer> {
        let command = ControlCommand::Join {
            name: ask.name.clone(),
            secret_hash,
            address: ask.address,
            key_fingerprint,
            connected: ask.connected.clone(),
        };
        let proposal = Proposal { request: ask.request, command, incarnation: 1 };
        match self.propose_control(member, &proposal, COMMIT).await {
            Attempt::Settled(ControlOutcome::Done { number, .. }) => {
                Ok(DirectorId(number.unwrap_or_default() as u32))
            }
            Attempt::Settled(ControlOutcome::Refused(refusal)) => Err(refused(&refusal)),
            Attempt::NotLeader(_) => Err(JoinAnswer::Again("the leader changed".to_owned())),
            Attempt::Unclear(why) => Err(JoinAnswer::Again(why)),
        }
    }
}

fn refused(refusal: &Refusal) -> JoinAnswer {
    JoinAnswer::Refused(format!("{} ({})", refusal.message, refusal.hint))
}
