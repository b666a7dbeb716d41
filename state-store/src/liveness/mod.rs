//! Who is alive: what directors hear of each other, and what follows from it.
//!
//! A pure core: no clock, no sockets. Time comes in as `now_ms` of one monotonic clock per director.
//!
//! Every director observes every other by its heartbeats, and every heartbeat carries what its
//! sender sees of the others ([`View`]). So each director knows a matrix, *observer × subject*, of
//! [`Seen`]. The control leader judges by it ([`Liveness::judge`]):
//!
//! - *down*: more than half of the observers that are alive themselves missed the member for
//!   [`Timing::down_after_ms`]. One-way silence between two directors declares nobody dead while
//!   a third hears both. With two directors the other one's word is the only one.
//! - *up* again: more than half of them heard it within [`Timing::up_within_ms`].
//!
//! An observer is alive when it is not declared down and the judge hears it; the judge always is.
//! Who does not know yet says so ([`Seen::Blind`]) and does not count.
//!
//! A director that was stopped (SIGSTOP, a paused machine) must not take its own sleep for the
//! silence of others. When more than [`Timing::stall_ms`] pass between two calls, the sleep is taken
//! out of every age, and the director is blind to each other one until it hears it again (or until
//! it has missed it for the whole time while awake).

use std::collections::BTreeMap;

use holdfast_schema::cluster::DirectorId;

#[cfg(test)]
mod tests;

/// The times that liveness is judged by (ms).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Silence after which an observer misses a member.
    pub down_after_ms: u64,
    /// A member that was declared down is heard if a heartbeat came within this time.
    pub up_within_ms: u64,
    /// A gap between two calls above this was a sleep of our own. Calls come every 100 ms or more
    /// often.
    pub stall_ms: u64,
    /// A member (or a new incarnation of one) that was never heard is missed after this time.
    pub first_contact_ms: u64,
    /// A judgement that was not committed meanwhile is repeated after this time.
    pub repeat_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            down_after_ms: 1_000,
            up_within_ms: 500,
            stall_ms: 300,
            first_contact_ms: 3_000,
            repeat_ms: 500,
        }
    }
}

/// What an observer knows of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Its last heartbeat is this old (ms).
    Heard(u32),
    /// It was silent for too long.
    Missed,
    /// Not known: just added, or we slept.
    Blind,
}

/// One line of what a heartbeat says about others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Whom it is about.
    pub subject: DirectorId,
    /// The subject's incarnation that was heard (0: none yet).
    pub incarnation: u64,
    /// What was heard of it.
    pub seen: Seen,
}

/// What the control group has committed about a member, as far as liveness is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Who.
    pub director: DirectorId,
    /// Its incarnation.
    pub incarnation: u64,
    /// Whether it is declared down.
    pub down: bool,
}

/// What should be committed about a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Who.
    pub director: DirectorId,
    /// The committed incarnation that was judged.
    pub incarnation: u64,
    /// What it should be declared to be.
    pub verdict: Verdict,
}

/// Down or up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A majority of the live observers missed it.
    Down,
    /// A majority of the live observers hears it again.
    Up,
}

/// One director's knowledge of who is alive.
#[derive(Debug)]
pub struct Liveness {
    me: DirectorId,
    timing: Timing,
    /// When we were last called: the end of the time we know to have been awake.
    awake_ms: u64,
    members: BTreeMap<DirectorId, Member>,
}

#[derive(Debug)]
struct Member {
    incarnation: u64,
    down: bool,
    /// Since when we wait for this incarnation.
    since_ms: u64,
    own: Option<Sight>,
    /// What it told us about others.
    row: Option<Row>,
    /// What we last said about it, and when.
    said: Option<(Verdict, u64, u64)>,
}

/// Our own observation of a member.
#[derive(Debug)]
struct Sight {
    incarnation: u64,
    at_ms: u64,
    /// Heard since our last sleep.
    fresh: bool,
}

#[derive(Debug)]
struct Row {
    sequence: u64,
    at_ms: u64,
    views: BTreeMap<DirectorId, View>,
}

impl Liveness {
    /// The knowledge of `me`, empty.
    pub fn new(me: DirectorId, timing: Timing, now_ms: u64) -> Liveness {
        Liveness { me, timing, awake_ms: now_ms, members: BTreeMap::new() }
    }

    /// Takes over what is committed. Who is not in it is forgotten. A new member, and a new
    /// incarnation of one, gets [`Timing::first_contact_ms`] to be heard.
    pub fn set_members(&mut self, now_ms: u64, members: impl IntoIterator<Item = Committed>) {
        self.advance(now_ms);
        let mut old = std::mem::take(&mut self.members);
        for new in members {
            let fresh = || Member {
                incarnation: new.incarnation,
                down: new.down,
                since_ms: now_ms,
                own: None,
                row: None,
                said: None,
            };
            let mut member = old.remove(&new.director).unwrap_or_else(fresh);
            if member.incarnation != new.incarnation {
                member.incarnation = new.incarnation;
                member.since_ms = now_ms;
            }
            member.down = new.down;
            self.members.insert(new.director, member);
        }
    }

    /// A heartbeat came. `sequence` orders the heartbeats of a sender: what an older one says of
    /// others is ignored. False: `from` is not a member.
    pub fn heard(
        &mut self,
        now_ms: u64,
        from: DirectorId,
        incarnation: u64,
        sequence: u64,
        views: &[View],
    ) -> bool {
        self.advance(now_ms);
        let Some(member) = self.members.get_mut(&from) else { return false };
        let newest = member.own.as_ref().map_or(0, |sight| sight.incarnation);
        if incarnation < newest {
            return true;
        }
        if incarnation > newest {
            // A new life counts its heartbeats from the start.
            member.row = None;
        }
        member.own = Some(Sight { incarnation, at_ms: now_ms, fresh: true });
        if member.row.as_ref().is_none_or(|row| sequence > row.sequence) {
            let views = views.iter().map(|view| (view.subject, *view)).collect();
            member.row = Some(Row { sequence, at_ms: now_ms, views });
        }
        true
    }

    /// The sender begins a new count of heartbeats (a new connection, maybe a new process).
    pub fn reconnected(&mut self, from: DirectorId) {
        if let Some(row) = self.members.get_mut(&from).and_then(|m| m.row.as_mut()) {
            row.sequence = 0;
        }
    }

    /// Lets time pass; to be called every 100 ms. Returns how long we slept, if we did.
    pub fn advance(&mut self, now_ms: u64) -> Option<u64> {
        let gap = now_ms.saturating_sub(self.awake_ms);
        self.awake_ms = self.awake_ms.max(now_ms);
        if gap <= self.timing.stall_ms {
            return None;
        }
        let down_after_ms = self.timing.down_after_ms;
        for member in self.members.values_mut() {
            member.since_ms += gap;
            if let Some(sight) = &mut member.own {
                sight.at_ms += gap;
                sight.fresh = false;
                // Who was on the brink when we fell asleep gets time for some heartbeats. Who was
                // missed before stays missed.
                let age = now_ms.saturating_sub(sight.at_ms);
                if age < down_after_ms {
                    sight.at_ms = now_ms - age.min(down_after_ms / 2);
                }
            }
            // What others told us before is older than it looks: they have to say it again.
            member.row = None;
        }
        Some(gap)
    }

    /// What we ourselves see of a member.
    fn own_view(&self, now_ms: u64, subject: &Member) -> Seen {
        match &subject.own {
            // An observation of an earlier life says nothing about this one.
            Some(sight) if sight.incarnation >= subject.incarnation => {
                let age = now_ms.saturating_sub(sight.at_ms);
                if age >= self.timing.down_after_ms {
                    Seen::Missed
                } else if sight.fresh {
                    Seen::Heard(age as u32)
                } else {
                    Seen::Blind
                }
            }
            _ if now_ms.saturating_sub(subject.since_ms) >= self.timing.first_contact_ms => {
                Seen::Missed
            }
            _ => Seen::Blind,
        }
    }

    /// What we tell others in our heartbeat.
    pub fn views(&self, now_ms: u64) -> Vec<View> {
        let others = self.members.iter().filter(|(id, _)| **id != self.me);
        let view = |(id, member): (&DirectorId, &Member)| View {
            subject: *id,
            incarnation: member.own.as_ref().map_or(0, |sight| sight.incarnation),
            seen: self.own_view(now_ms, member),
        };
        others.map(view).collect()
    }

    /// What observer `observer` sees of `subject`, as far as we know.
    fn seen(&self, now_ms: u64, observer: DirectorId, id: DirectorId, subject: &Member) -> Seen {
        if observer == self.me {
            return self.own_view(now_ms, subject);
        }
        let row = self.members.get(&observer).and_then(|member| member.row.as_ref());
        let Some((row, view)) = row.and_then(|row| Some((row, row.views.get(&id)?))) else {
            return Seen::Blind;
        };
        match view.seen {
            Seen::Heard(_) if view.incarnation < subject.incarnation => Seen::Blind,
            Seen::Heard(age) => {
                let age = u64::from(age) + now_ms.saturating_sub(row.at_ms);
                if age >= self.timing.down_after_ms {
                    Seen::Missed
                } else {
                    Seen::Heard(age as u32)
                }
            }
            other => other,
        }
    }

    /// Who may testify: members not declared down that we hear, and we ourselves.
    fn observers(&self, now_ms: u64) -> Vec<DirectorId> {
        let alive = |(id, member): (&DirectorId, &Member)| {
            let heard = || matches!(self.own_view(now_ms, member), Seen::Heard(_));
            (*id == self.me || (!member.down && heard())).then_some(*id)
        };
        self.members.iter().filter_map(alive).collect()
    }

    /// What the control leader should commit. Says a thing once, and again after
    /// [`Timing::repeat_ms`] if it still has not been committed.
    pub fn judge(&mut self, now_ms: u64) -> Vec<Judgement> {
        self.advance(now_ms);
        let observers = self.observers(now_ms);
        let mut judgements = Vec::new();
        for (&id, subject) in &self.members {
            let (mut asked, mut missed, mut heard) = (0usize, 0usize, 0usize);
            for &observer in observers.iter().filter(|&&o| o != id) {
                match self.seen(now_ms, observer, id, subject) {
                    Seen::Blind => continue,
                    Seen::Missed => missed += 1,
                    Seen::Heard(age) if u64::from(age) <= self.timing.up_within_ms => heard += 1,
                    Seen::Heard(_) => {}
                }
                asked += 1;
            }
            // A judge is no witness in its own case, unless nobody else is there.
            let alone = id == self.me && asked == 0;
            let verdict = match subject.down {
                false if id != self.me && missed * 2 > asked => Verdict::Down,
                true if heard * 2 > asked || alone => Verdict::Up,
                _ => continue,
            };
            judgements.push(Judgement { director: id, incarnation: subject.incarnation, verdict });
        }
        judgements.retain(|j| self.say(now_ms, j));
        judgements
    }

    /// Whether this has not been said just before; remembers that it was.
    fn say(&mut self, now_ms: u64, judgement: &Judgement) -> bool {
        let Some(member) = self.members.get_mut(&judgement.director) else { return false };
        let key = (judgement.verdict, judgement.incarnation);
        if let Some((verdict, incarnation, at_ms)) = member.said
            && (verdict, incarnation) == key
            && now_ms.saturating_sub(at_ms) < self.timing.repeat_ms
        {
            return false;
        }
        member.said = Some((key.0, key.1, now_ms));
        true
    }

    /// How long ago (ms) we heard a member, and which incarnation; none: never.
    pub fn last_heard(&self, now_ms: u64, director: DirectorId) -> Option<(u64, u64)> {
        let sight = self.members.get(&director)?.own.as_ref()?;
        Some((now_ms.saturating_sub(sight.at_ms), sight.incarnation))
    }
}
