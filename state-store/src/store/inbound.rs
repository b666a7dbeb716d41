//! What peers send, on its way to whoever it is for.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::{ControlCommand, DirectorId};

use super::arrived;
use super::command::Attempt;
use super::member::Member;
use super::{Shared, Store};
use crate::codec;
use crate::codec::wire::{
    Address, Form, JoinAsk, NodeMessage, Register, Registration, Request, Response,
};
use crate::metrics::count;
use crate::transport::Receiver;

/// How long a leader waits for the outcome of a forwarded command.
const COMMIT: Duration = Duration::from_secs(2);

/// The store's receiver. Does not keep the store alive.
pub struct Inbox {
    shared: Weak<Shared>,
}

impl Inbox {
    pub(super) fn new(shared: Weak<Shared>) -> Inbox {
        Inbox { shared }
    }

    fn store(&self) -> Option<Store> {
        self.shared.upgrade().map(|shared| Store { shared })
    }
}

impl Receiver for Inbox {
    fn message(&self, from: DirectorId, message: Bytes) {
        let Some(store) = self.store() else { return };
        let Some(member) = store.shared.member() else { return };
        if store.take_message(&member, from, &message).is_err() {
            count(&store.shared.metrics.messages_malformed);
        }
    }

    fn request(&self, from: DirectorId, body: Bytes) -> BoxFuture<'static, Bytes> {
        let store = self.store();
        Box::pin(async move {
            let response = match store {
                Some(store) => store.answer(from, &body).await,
                None => Response::Failed("the director is stopping".to_owned()),
            };
            Bytes::from(codec::encode(&response))
        })
    }

    fn snapshot(&self, from: DirectorId, header: Bytes, image: Bytes) -> Result<(), String> {
        let store = self.store().ok_or("the director is stopping")?;
        let member = store.shared.member().ok_or("the director is starting")?;
        let (group, input) = arrived::snapshot(from, &header, image)?;
        let groups = match group {
            Address::CONTROL => Some(&member.control),
            _ => member.sessions.get(),
        };
        let groups = groups.ok_or("the session groups have not started")?;
        if groups.handle.say(input) { Ok(()) } else { Err("the driver is busy".to_owned()) }
    }

    fn removed(&self, by: DirectorId) {
        let store = self.store();
        if let Some(member) = store.and_then(|store| store.shared.member()) {
            member
                .disown(format!("this director was removed from the cluster, says director {by}"));
        }
    }

    fn join(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        let store = self.store();
        Box::pin(async move {
            use crate::codec::wire::JoinAnswer;
            let answer = match (store, codec::decode::<JoinAsk>(&request)) {
                (_, Err(e)) => JoinAnswer::Refused(format!("the join request cannot be read: {e}")),
                (None, _) => JoinAnswer::Again("the director is stopping".to_owned()),
                // Only members pass requests on, and they do it over their own connections.
                (Some(store), Ok(ask)) => store.serve_join(JoinAsk { hops: 0, ..ask }).await,
            };
            Bytes::from(codec::encode(&answer))
        })
    }
}

impl Store {
    fn take_message(
        &self,
        member: &Member,
        from: DirectorId,
        message: &[u8],
    ) -> Result<(), codec::CodecError> {
        if let Some(arrived) = arrived::message(from, message)? {
            if let Some(control) = arrived.control {
                member.control.handle.say(control);
            }
            if let (Some(input), Some(sessions)) = (arrived.sessions, member.sessions.get()) {
                sessions.handle.say(input);
            }
        } else if codec::is::<Register>(message) {
            self.take_registrations(member, from, codec::decode(message)?);
        } else if codec::is::<Registration>(message) {
            self.take_answer(member, from, &codec::decode(message)?);
        } else {
            let message: NodeMessage = codec::decode(message)?;
            self.shared.config.on_call.message(from, message.body);
        }
        Ok(())
    }

    async fn answer(&self, from: DirectorId, body: &[u8]) -> Response {
        let request = match codec::decode::<Request>(body) {
            Ok(request) => request,
            Err(e) => {
                count(&self.shared.metrics.messages_malformed);
                return Response::Failed(e.to_string());
            }
        };
        let Some(member) = self.shared.member() else {
            return Response::Failed("the director is starting".to_owned());
        };
        match request {
            Request::Miss { key, shard } => self.answer_miss(&member, &key, shard).await,
            Request::Control(proposal) => {
                if let ControlCommand::Started { director, .. } = &proposal.command
                    && *director != from
                {
                    return Response::Failed("a start of somebody else".to_owned());
                }
                if !member.leads_control() {
                    return Response::NotLeader(member.control_leader());
                }
                match self.propose_control(&member, &proposal, COMMIT).await {
                    Attempt::Settled(outcome) => Response::Outcome(outcome),
                    Attempt::NotLeader(leader) => Response::NotLeader(leader),
                    Attempt::Unclear(why) => Response::Failed(why),
                }
            }
            Request::Barrier { shards } => {
                Response::Barrier(self.barrier_here(&member, &shards).await)
            }
            Request::Applied => Response::Applied(member.applied()),
            Request::Forms => Response::Forms(forms(&member)),
            Request::Join(ask) => Response::Join(Box::new(self.serve_join(*ask).await)),
            Request::Node { body } => {
                Response::Node { body: self.shared.config.on_call.call(from, body).await }
            }
        }
    }
}

/// How this director's replicas of the shards are configured.
pub(super) fn forms(member: &Member) -> Vec<Form> {
    let states = member.sessions.get().map(|s| s.states.as_slice()).unwrap_or_default();
    states.iter().map(|state| state.form()).collect()
}
