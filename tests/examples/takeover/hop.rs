//! How long a packet takes through a machine: from its entry into the link to it, to its exit.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;

use crate::segment::Segment;
use crate::tap::Tap;

/// Source and destination.
pub type Ends = (SocketAddrV4, SocketAddrV4);

/// Between two packets: the worker has gone to sleep again.
pub const GAP: Duration = Duration::from_millis(2);

/// A packet, and what it looks like on its way in and out. No two of one measurement are alike.
pub struct Probe {
    pub frame: Vec<u8>,
    pub entry: Ends,
    pub exit: Ends,
}

/// Sends the packets one by one; how long (ns) each was inside. Those that did not come out are left out.
pub fn measure(tap: &Tap, probes: &[Probe]) -> Result<Vec<u64>> {
    tap.seen()?;
    let mut entries: HashMap<Ends, i64> = HashMap::new();
    let mut exits: HashMap<Ends, i64> = HashMap::new();
    let mut look = || -> Result<()> {
        for frame in tap.seen()? {
            let Some(segment) = Segment::read(&frame.bytes) else { continue };
            let times = if frame.outgoing { &mut entries } else { &mut exits };
            times.entry((segment.from, segment.to)).or_insert(frame.at_ns);
        }
        Ok(())
    };
    // Looking wakes nobody, and what is seen keeps its time: it is done when nothing else is.
    for some in probes.chunks(256) {
        for probe in some {
            tap.send(&probe.frame)?;
            std::thread::sleep(GAP);
        }
        look()?;
    }
    std::thread::sleep(Duration::from_millis(25)); // the longest that a packet waits
    look()?;
    let inside = probes.iter().filter_map(|p| {
        let (entry, exit) = (entries.get(&p.entry)?, exits.get(&p.exit)?);
        Some(exit.saturating_sub(*entry).max(0) as u64)
    });
    Ok(inside.collect())
}
