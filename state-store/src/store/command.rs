//! Saying something to the control group: find the leader, forward, repeat under one request id.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use holdfast_schema::cluster::{
    ControlCommand, ControlOutcome, DirectorId, JoinSlot, Refusal, RefusalCode, RequestId,
};
use tokio::sync::oneshot;

use super::error::StoreError;
use super::member::Member;
use super::{Store, unexpected};
use crate::codec;
use crate::codec::wire::{Address, ControlEntry, Proposal, Request, Response};
use crate::pki::JoinToken;
use crate::raft::Input;

/// One attempt at a leader.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// A director heard within this time is running.
const RUNNING_MS: u64 = 1_000;

/// A new request id.
pub(super) fn new_request() -> RequestId {
    RequestId(rand::random())
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Whether a director (this start of it) was heard a moment ago.
pub(super) fn heard(member: &Member, director: DirectorId, incarnation: Option<u64>) -> bool {
    member.transport.liveness().into_iter().any(|p| {
        p.id == director
            && incarnation.is_none_or(|i| p.incarnation == i)
            && p.heard_ms_ago.is_some_and(|ms| ms < RUNNING_MS)
    })
}

/// What an attempt to propose came to.
pub(super) enum Attempt {
    Settled(ControlOutcome),
    /// Not the leader; perhaps this one is.
    NotLeader(Option<DirectorId>),
    /// No outcome in time; it may still come.
    Unclear(String),
}

impl Store {
    /// Says something to the control group: finds the leader, forwards, retries with the same
    /// request id. A refusal is an `Ok(ControlOutcome::Refused)`.
    pub async fn control(
        &self,
        command: ControlCommand,
        deadline: Duration,
    ) -> Result<ControlOutcome, StoreError> {
        self.control_as(new_request(), command, 0, deadline).await
    }

    pub(super) async fn control_as(
        &self,
        request: RequestId,
        command: ControlCommand,
        incarnation: u64,
        deadline: Duration,
    ) -> Result<ControlOutcome, StoreError> {
        let until = Instant::now() + deadline;
        let proposal = Proposal { request, command, incarnation };
        let mut cause = "the control group has no leader".to_owned();
        let mut hint = None;
        let mut round = 0;
        loop {
            let member = self.member()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let deadline_ms = deadline.as_millis() as u64;
                let what = "the control command".to_owned();
                return Err(StoreError::Deadline { what, deadline_ms, cause });
            }
            let attempt = left.min(ATTEMPT);
            // Whoever hears no leader (it just started, or its address is not known yet) asks around.
            let leader = hint.take().or_else(|| member.control_leader()).or_else(|| {
                let peers = self.live_peers(&member);
                round += 1;
                peers.get(round % peers.len().max(1)).copied()
            });
            if member.leads_control() {
                match self.propose_control(&member, &proposal, attempt).await {
                    Attempt::Settled(outcome) => return Ok(outcome),
                    Attempt::NotLeader(other) => hint = other.filter(|o| *o != member.me),
                    Attempt::Unclear(why) => cause = why,
                }
            } else if let Some(leader) = leader.filter(|l| *l != member.me) {
                let ask = Request::Control(Box::new(proposal.clone()));
                match self.request(&member, leader, &ask, attempt).await {
                    Ok(Response::Outcome(outcome)) => {
                        self.see(&outcome).await;
                        return Ok(outcome);
                    }
                    Ok(Response::NotLeader(other)) => hint = other.filter(|o| *o != member.me),
                    Ok(other) => cause = unexpected(leader, &other).to_string(),
                    Err(e) => cause = e.to_string(),
                }
            }
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    }

    /// Waits until this director has applied what another one did for it, so that whoever was told
    /// of a success reads it here too. A replica that lags for longer than that is not waited for.
    async fn see(&self, outcome: &ControlOutcome) {
        let ControlOutcome::Done { revision, membership_epoch, .. } = outcome else { return };
        let mut cluster = self.cluster();
        let applied = cluster.wait_for(|state| {
            state.as_ref().is_some_and(|state| {
                state.revision >= *revision && state.membership_epoch >= *membership_epoch
            })
        });
        tokio::time::timeout(ATTEMPT, applied).await.ok();
    }

    /// Proposes as the leader and waits for the outcome.
    pub(super) async fn propose_control(
        &self,
        member: &Member,
        proposal: &Proposal,
        patience: Duration,
    ) -> Attempt {
        // One removal at a time: two at once could each be judged by voters that the other takes.
        let _alone = match &proposal.command {
            ControlCommand::Remove { .. } => Some(self.shared.removing.lock().await),
            _ => None,
        };
        if let Some(refusal) = self.leaders_objection(member, proposal).await {
            return Attempt::Settled(ControlOutcome::Refused(refusal));
        }
        let outcome = self.shared.published.wait_for(proposal.request);
        let mut proposal = proposal.clone();
        if let ControlCommand::IssueToken { now_s, .. } = &mut proposal.command {
            *now_s = unix_time().as_secs();
        }
        let entry = ControlEntry::Command(Box::new(proposal));
        let (reply, answer) = oneshot::channel();
        let input = Input::Propose(Address::CONTROL, codec::encode(&entry), reply);
        if !member.control.handle.say(input) {
            return Attempt::Unclear("the control group's driver is busy".to_owned());
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(0))) => return Attempt::NotLeader(None),
            Ok(Ok(Err(leader))) => return Attempt::NotLeader(Some(DirectorId(leader as u32))),
            _ => return Attempt::Unclear("the control group's driver does not answer".to_owned()),
        }
        match tokio::time::timeout(patience, outcome).await {
            Ok(Ok(outcome)) => Attempt::Settled(outcome),
            _ => Attempt::Unclear("a majority of the control group does not answer".to_owned()),
        }
    }

    /// What only somebody with a clock and ears can judge.
    async fn leaders_objection(&self, member: &Member, proposal: &Proposal) -> Option<Refusal> {
        match &proposal.command {
            ControlCommand::Started { director, address, .. } => {
                self.runs_elsewhere(member, *director, *address)
            }
            ControlCommand::Remove { director, force } => {
                let objection = self.quorum_needs(member, *director).await?;
                (!objection.forcible || force.is_none()).then_some(objection.refusal)
            }
            _ => None,
        }
    }

    fn runs_elsewhere(
        &self,
        member: &Member,
        director: DirectorId,
        address: SocketAddr,
    ) -> Option<Refusal> {
        let view = self.shared.published.view()?;
        let known = view.cluster.members.get(&director)?;
        if known.address == address || director == member.me {
            return None;
        }
        heard(member, director, Some(known.incarnation)).then(|| Refusal {
            code: RefusalCode::NotAllowed,
            message: format!(
                "director {} is running at {}; a second one with the same identity wants to start at \
                 {address}",
                known.name, known.address
            ),
            hint: "do not copy a data directory; begin with an empty one and a join token".to_owned(),
        })
    }

    /// Opens a slot for a new director and returns the one-time token.
    pub async fn issue_token(&self, name: &str, ttl: Duration) -> Result<String, StoreError> {
        let member = self.member()?;
        let (cluster, authority) = member.authority()?;
        let mut addresses = vec![self.shared.config.listen];
        let view = self.shared.published.view();
        let others = view.iter().flat_map(|v| v.cluster.members.values());
        addresses.extend(others.filter(|m| !m.down && m.id != member.me).map(|m| m.address));
        let token = JoinToken::new(cluster, authority, name, addresses)
            .map_err(|e| StoreError::Join(e.to_string()))?;
        let now = unix_time();
        let slot =
            JoinSlot { secret_hash: token.secret_hash(), expires_at_s: (now + ttl).as_secs() };
        let command = ControlCommand::IssueToken { name: name.to_owned(), slot, now_s: 0 };
        match self.control(command, Duration::from_secs(10)).await? {
            ControlOutcome::Done { .. } => Ok(token.encode()),
            ControlOutcome::Refused(refusal) => Err(StoreError::Refused(refusal)),
        }
    }
}
