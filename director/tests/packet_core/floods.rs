//! Floods of new sessions and of unknown packets: known sessions do not notice.

use holdfast_director::core::{BATCH, CoreConfig, Count, DropReason, Verdict};

use super::support::packet::*;
use super::support::*;

/// A lab with an established session, and the next packet of its client.
fn with_session(config: CoreConfig) -> (Lab, Vec<u8>) {
    let mut lab = Lab::with(4_000, config);
    let (client, vip) = (at(CLIENT, 40_000), at(VIP, WEB));
    let sent = lab.sent(&Packet::tcp(client, vip, SYN, 1, 0).bytes());
    let (local, backend) = verified_endpoints(&sent);
    lab.sent(&Packet::tcp(backend, local, SYN | ACK, 7, 2).bytes());
    let known = Packet::tcp(client, vip, ACK, 2, 8).bytes();
    lab.sent(&known);
    (lab, known)
}

/// A batch of one packet of the session among many others; what became of the others.
fn batch_with(lab: &mut Lab, known: &[u8], other: impl Fn(u16) -> Vec<u8>) -> Vec<Verdict> {
    let mut packets: Vec<Vec<u8>> = (1..BATCH as u16).map(other).collect();
    packets.push(known.to_vec());
    let mut verdicts: Vec<Verdict> = lab.batch(&packets).into_iter().map(|(v, _)| v).collect();
    assert_eq!(verdicts.pop(), Some(Verdict::Transmit), "the known session's packet");
    verdicts
}

#[test]
fn unknown_packets_are_asked_about_within_the_budget_and_delay_nobody() {
    let config = CoreConfig {
        waiting_packets: 256,
        waiting_flows: 256,
        asks_per_second: 1_000,
        ask_burst: 100,
        prefix_asks_per_second: 200,
        prefix_ask_burst: 20,
        ..CoreConfig::for_workers(4_000, 1)
    };
    for (one_prefix, budget, reason) in [
        (true, 200..=220, DropReason::AskBudgetPrefix),
        (false, 1_000..=1_100, DropReason::AskBudget),
    ] {
        let (mut lab, known) = with_session(config.clone());
        for step in 0..1_000u16 {
            lab.pass(1);
            batch_with(&mut lab, &known, |n| {
                let number = step.wrapping_mul(BATCH as u16).wrapping_add(n);
                let [a, b] = number.to_be_bytes();
                let ip = match one_prefix {
                    true => std::net::Ipv4Addr::new(198, 51, 100, b),
                    false => std::net::Ipv4Addr::new(11, a, b, 1),
                };
                Packet::tcp(at(ip, 1_024 + number % 60_000), at(VIP, WEB), ACK, 1, 1).bytes()
            });
            assert!(lab.questions().len() <= 256, "no more than may wait");
            lab.poll();
            assert!(lab.core.parked() <= 256);
        }
        // A second's budget and the burst, all of it, and nothing beyond.
        let counters = lab.counters();
        let questions = counters.count(Count::Questions);
        assert!(budget.contains(&questions), "{questions} questions");
        assert!(counters.dropped(reason) > 50_000, "{}", counters.dropped(reason));
        assert_eq!(counters.count(Count::ToBackendPackets), 1_002, "every one of the known one");
    }
}

#[test]
fn new_sessions_beyond_every_limit_delay_nobody() {
    let (mut lab, known) = with_session(CoreConfig::for_workers(4_000, 1));
    let (mut put_down, mut room) = (0, 500);
    for step in 0..200u16 {
        lab.pass(1);
        let verdicts = batch_with(&mut lab, &known, |n| {
            let number = step.wrapping_mul(BATCH as u16).wrapping_add(n);
            let ip = std::net::Ipv4Addr::new(11, (number >> 8) as u8, number as u8, 1);
            Packet::tcp(at(ip, 1_024 + n), at(VIP, WEB), SYN, 1, 0).bytes()
        });
        let refused = Verdict::Drop(DropReason::HalfOpenFull);
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Transmit) || *v == refused));
        // The homes' thread does not keep up.
        lab.core.take_young(|_| {
            let fits = room > 0;
            put_down += u64::from(fits);
            room -= usize::from(fits);
            fits
        });
    }
    let counters = lab.counters();
    let opened = counters.count(Count::SessionsOpenedTcp);
    assert_eq!(opened, 2_000 + 1, "the pool of half-open ones is full");
    // The known one was put down thrice: at its beginning, when it was answered and when it was established.
    let counted = put_down + counters.count(Count::RegistrationsDropped);
    assert_eq!(counted, opened + 2, "each is counted");
    assert!(counters.dropped(DropReason::HalfOpenFull) > 10_000);
    assert_eq!(counters.count(Count::ToBackendPackets), 2_000 + 202);
}
