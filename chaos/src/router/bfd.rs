//! When the router's BIRD lost a director by BFD, from its log.

use std::net::Ipv4Addr;

use crate::clock::parse_utc;

/// When (Unix ms) BFD gave up a neighbour for the first time after `since`; the log's timestamps are
/// in UTC.
pub fn lost(log: &str, neighbor: Ipv4Addr, since_unix_ms: i64) -> Option<i64> {
    let session = format!("Session to {neighbor} changed state from Up to Down");
    log.lines().filter(|line| line.contains(&session)).find_map(|line| {
        let at = parse_utc(line.get(..23)?)?;
        (at >= since_unix_ms).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-21 11:45:10.092 <TRACE> bfd1: Session to 10.71.3.2 changed state from Up to Down
2026-11-21 11:45:10.093 <TRACE> bfd1: Session to 10.71.2.2 changed state from Init to Up
2026-11-21 11:45:12.100 <TRACE> bfd1: Session to 10.71.2.2 changed state from Up to Down
2026-11-21 11:45:12.101 <TRACE> d2: BFD session down
2026-11-21 11:45:19.000 <TRACE> bfd1: Session to 10.71.2.2 changed state from Up to Down
cut off in the mid";

    #[test]
    fn the_first_loss_of_that_neighbour_counts() {
        let at = parse_utc("2026-11-21 11:45:10.000").unwrap();
        let d2 = Ipv4Addr::new(10, 71, 2, 2);
        assert_eq!(lost(LOG, d2, at), Some(at + 2_100));
        assert_eq!(lost(LOG, d2, at + 3_000), Some(at + 9_000));
        assert_eq!(lost(LOG, d2, at + 60_000), None);
        assert_eq!(
            lost(LOG, Ipv4Addr::new(10, 71, 1, 2), at),
            None,
            "another's loss is not its own"
        );
    }
}
