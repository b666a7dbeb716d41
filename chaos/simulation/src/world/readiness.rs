//! Rule 7, judged from outside: a director that begins to attract clients knows their sessions.

use std::net::SocketAddr;

use holdfast_node::announce::machine::Stage;
use holdfast_node::announce::wish::METRIC_BEST;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Known, SessionSink};

use super::World;
use super::marks::Mark;
use super::rules::Rule;
use crate::director::frame;

/// What may happen between the beginning of a planned change and the flush that others begin (ms).
const BEGIN_MS: u64 = 500;

/// Whether clients come to who announces the VIP so.
fn attracts(metric: Option<u32>) -> bool {
    metric.is_some_and(|metric| metric <= METRIC_BEST)
}

/// Whether a director at this stage has done what comes before its VIPs.
fn may_attract(stage: &Stage) -> bool {
    matches!(stage, Stage::Vips(_) | Stage::Serving)
}

impl World {
    /// A director has come to a stage of its announcement.
    pub(super) fn judge_readiness(&mut self, id: u32, stage: &str) {
        let now_us = self.queue.now_us();
        match stage {
            "flushing" => drop(self.flushing_us.insert(id, now_us)),
            "announcing-vips" => {
                let Some(since_us) = self.flushing_us.remove(&id) else { return };
                let flush_ms = (now_us - since_us) / 1_000;
                let (lacking, over) = self.lacks(id, flush_ms + BEGIN_MS);
                self.marks.reach(Mark::LackedNothing, over);
                if let Some((flow, what)) = lacking {
                    self.violate(
                        Rule::Ready,
                        format!("director {id} announces VIPs: {what}"),
                        flow,
                    );
                }
            }
            _ => {}
        }
    }

    /// The router has learnt with which metric a director announces the VIP; it is at this stage.
    pub(super) fn judge_attraction(&mut self, id: u32, metric: Option<u32>, stage: &Stage) {
        if attracts(metric) && !may_attract(stage) {
            let what = format!("director {id} announces the VIP as usual, and is {}", stage.word());
            self.violate(Rule::Ready, what, None);
        }
    }

    /// An open session, older than this, that another director in service knows and this one does not; and how
    /// many there are of connections that are over.
    fn lacks(&self, id: u32, older_ms: u64) -> (Option<(Option<u64>, String)>, u64) {
        let now_us = self.queue.now_us();
        let Some(joiner) = self.directors[id as usize - 1].process.as_deref() else {
            return (None, 0);
        };
        let (table, members) = (&joiner.table, &joiner.cluster().members);
        // A record may outlive its connection: nobody can attract a client that is gone.
        let used = self.hosts.sockets();
        let (mut lacking, mut over) = (None, 0);
        for other in self.directors.iter().filter(|d| d.id != id && d.runs()) {
            let Some(process) = other.process.as_deref() else { continue };
            // One that is cut off is asked in vain, and known to be: nobody waits for its flush.
            let down = members.get(&DirectorId(other.id)).is_none_or(|m| m.down);
            if !process.serves() || other.cut_since.is_some() || down {
                continue;
            }
            process.table.for_each(other.clock.local_us(now_us) / 1_000, |record, _| {
                let open = record.flags.established() && !record.flags.closing();
                // Half its timeout idle: it may be expiring.
                let lives = record.idle_ms() < record.idle_limit_ms() / 2;
                let SocketAddr::V4(client) = record.key.source() else { return };
                let flow = frame::socket_number(&client);
                let known = || !matches!(table.find(&record.key), Known::Nobody);
                if open
                    && lives
                    && u64::from(record.created_age_ms) > older_ms
                    && record.owner.0 == other.id
                    && lacking.is_none()
                    && !self.excuses.has(flow)
                    && !known()
                {
                    if !used.contains(&client.into()) {
                        over += 1;
                        return;
                    }
                    let what = format!(
                        "director {} knows {} for {} ms, and it does not",
                        other.id, record.key, record.created_age_ms
                    );
                    lacking = Some((Some(flow), what));
                }
            });
        }
        (lacking, over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_node::announce::wish::METRIC_WORSE;

    #[test]
    fn who_attracts_clients_has_flushed_and_announced_its_lips() {
        assert!(attracts(Some(METRIC_BEST)) && !attracts(Some(METRIC_WORSE)) && !attracts(None));
        for stage in [Stage::Down, Stage::Planning, Stage::Flushing(1), Stage::Lips(1)] {
            assert!(!may_attract(&stage), "{stage:?}");
        }
        assert!(may_attract(&Stage::Vips(1)) && may_attract(&Stage::Serving));
    }
}
