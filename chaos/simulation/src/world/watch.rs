//! One session under observation: what each director knows of it, as it changes.

use super::World;
use super::happening::Happening;
use crate::director::frame;

impl World {
    /// Remarks in the trace what a director knows of the session that is watched.
    pub(super) fn look_at_watched(&mut self, id: u32) {
        let Some(flow) = self.plan.watch else { return };
        let now_us = self.queue.now_us();
        let director = &self.directors[id as usize - 1];
        let now_ms = director.clock.local_us(now_us) / 1_000;
        let Some(process) = &director.process else { return };
        let mut known = Vec::new();
        process.table.for_each(now_ms, |record, acknowledged| {
            let std::net::SocketAddr::V4(client) = record.key.source() else { return };
            if frame::socket_number(&client) == flow {
                let stored = if acknowledged { ", stored" } else { "" };
                known.push(format!(
                    "{} by {} no {} ({:?}, owner {}{stored})",
                    record.reply,
                    record.incarnation.creator,
                    record.incarnation.counter & 0xffff_ffff,
                    record.flags,
                    record.owner
                ));
            }
        });
        let words = match known.is_empty() {
            true => "nothing".to_owned(),
            false => known.join("; "),
        };
        let before = self.watched.insert(id, words.clone());
        if before.is_some_and(|before| before != words) {
            self.trace.remark(now_us, flow, Happening::Knows(id, words));
        }
    }
}
