//! A process asks others for sessions that it does not know, and answers them.

use holdfast_director::core::{MissAnswer, MissQuestion};
use holdfast_node::node::NO_DENIAL_MS;
use holdfast_node::sessions::misses;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::SessionSink;
use holdfast_state_store::homes::{Answer, Whom, bucket_of};

use super::{Effects, Miss, Process};
use crate::director::message::Message;
use crate::plan::Without;

impl Process {
    /// Who has to answer a question.
    pub(super) fn whom(&self, now_ms: u64, question: &MissQuestion) -> Whom {
        let cluster = &self.cluster;
        let key = &question.key;
        let leader = self.share.leader_of(cluster.shards.shard(bucket_of(cluster, key)));
        let unchanged = self.calm_for_ms(now_ms) >= NO_DENIAL_MS;
        let doubted = question.known.and_then(|_| self.table.find(key).session());
        let mut whom = Whom::of(cluster, self.young.homes(), now_ms, key, leader, unchanged)
            .and_carriers(cluster, doubted.as_ref());
        whom.settled |= self.without == Some(Without::Authority);
        whom
    }

    /// Sends questions that are due, and takes what they have come to.
    pub(super) fn go_on_asking(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        for (to, id, question) in self.questions.sends(now_us) {
            match to == self.me {
                true => self.asked(now_us, self.me, id, question.key, out),
                false => out.messages.push((to, Message::Ask { id, key: question.key })),
            }
        }
        let counts =
            self.without == Some(Without::Authority) || self.calm_for_ms(now_ms) >= NO_DENIAL_MS;
        let down = self.cluster.members.values().any(|m| m.down);
        for (worker, question, verdict) in self.questions.decided(now_us) {
            let answer = misses::answer(&question, verdict, counts);
            out.misses.push(match answer {
                MissAnswer::Found { .. } => Miss::Found,
                MissAnswer::NoWithAuthority { .. } => Miss::Denied,
                MissAnswer::DontKnow { .. } if counts && down => Miss::SomebodyDown,
                MissAnswer::DontKnow { .. } => Miss::Unknown,
            });
            let sent = |sent| out.sent.push(sent);
            self.packets.answer(worker, &self.tables, now_us * 1_000, &answer, sent);
        }
        self.take_opened(now_us);
    }

    /// Somebody asks for a session.
    pub(super) fn asked(
        &mut self,
        now_us: u64,
        from: DirectorId,
        id: u64,
        key: FlowKey,
        out: &mut Effects,
    ) {
        let known = self.young.look(now_us / 1_000, &self.cluster, &key);
        let shard = self.cluster.shards.shard(bucket_of(&self.cluster, &key));
        let no = matches!(known, Answer::No { .. });
        if no && self.share.confirm(now_us, from, id, key, shard) {
            return; // The answer follows with the confirmation.
        }
        let known = if no && !self.share.knows(shard) { Answer::DontKnow } else { known };
        self.tell(now_us, from, id, known, out);
    }

    fn tell(&mut self, now_us: u64, to: DirectorId, id: u64, answer: Answer, out: &mut Effects) {
        match to == self.me {
            true => self.questions.answer(now_us, self.me, id, answer),
            false => out.messages.push((to, Message::Answer { id, answer })),
        }
    }

    /// Answers what has waited for a confirmation by a quorum.
    pub(super) fn tell_confirmed(&mut self, now_us: u64, out: &mut Effects) {
        let mut confirmed = Vec::new();
        self.share.confirmed(|from, id, key, yes| confirmed.push((from, id, key, yes)));
        for (from, id, key, yes) in confirmed {
            // What was committed before the confirmation has been applied now.
            let answer = match self.young.look(now_us / 1_000, &self.cluster, &key) {
                Answer::No { as_home, .. } => Answer::No { as_leader: yes, as_home },
                known => known,
            };
            self.tell(now_us, from, id, answer, out);
        }
    }
}
