//! The control leader's look for shards that have lost the majority of their voters for good.

use std::time::Duration;

use holdfast_schema::cluster::DirectorId;
use holdfast_state_store::codec::wire::{Address, Form};
use holdfast_state_store::simulation::{Input, Lost, SURVEY, Survey};
use tokio::sync::oneshot;

use super::{Mail, Share, Which};

/// How long (us) others may take to answer.
const ANSWERS_US: u64 = 500_000;

/// The survey of one process.
#[derive(Default)]
pub(super) struct Surveying {
    survey: Survey,
    next_us: u64,
    /// When the others were last asked, and who has answered what since.
    asked_us: Option<u64>,
    answers: Vec<(DirectorId, Vec<Form>)>,
}

impl Share {
    /// How the replicas here are configured; nothing while there are none.
    pub(super) fn forms(&self) -> Vec<Form> {
        self.states.iter().skip(1).map(|state| state.form()).collect()
    }

    /// Another director has told how its replicas are configured.
    pub(super) fn told_forms(&mut self, from: DirectorId, forms: Vec<Form>) {
        let news = self.surveying.answers.iter().all(|(d, _)| *d != from);
        if self.surveying.asked_us.is_some() && news && !forms.is_empty() {
            self.surveying.answers.push((from, forms));
        }
    }

    /// Looks whether a shard has to be formed anew.
    pub(super) fn survey(&mut self, now_us: u64) {
        let shards = self.cluster.shard_count;
        let led: Vec<bool> = self.states.iter().skip(1).map(|s| s.progress().leader != 0).collect();
        let leaderless = |shard: u16| !led.get(usize::from(shard)).is_some_and(|led| *led);
        if !self.leads_control() || !(0..shards).any(leaderless) {
            self.surveying.survey.all_is_well();
            self.surveying.asked_us = None;
            return;
        }
        let Some(asked_us) = self.surveying.asked_us else {
            if now_us >= self.surveying.next_us {
                self.surveying.next_us = now_us + SURVEY.as_micros() as u64;
                self.surveying.asked_us = Some(now_us);
                self.surveying.answers.clear();
                self.told_forms(self.me, self.forms());
                let others = self.cluster.members.values().filter(|m| !m.down && m.id != self.me);
                others.for_each(|m| self.out.push(m.id, Mail::AskForms));
            }
            return;
        };
        if now_us < asked_us + ANSWERS_US {
            return;
        }
        self.surveying.asked_us = None;
        let Some(view) = self.view.clone() else { return };
        let (now, answers) = (Duration::from_micros(now_us), &self.surveying.answers);
        let lost = self.surveying.survey.judge(now, &view, &leaderless, answers);
        for lost in lost {
            self.form_anew(now_us, lost);
            self.surveying.survey.formed_anew(now, lost.shard);
        }
    }

    fn form_anew(&mut self, now_us: u64, lost: Lost) {
        let (reply, _) = oneshot::channel();
        self.take(Which::Control, Input::Propose(Address::CONTROL, lost.entry(), reply), now_us);
        self.poll(Which::Control, now_us);
    }
}
