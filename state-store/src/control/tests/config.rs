use super::*;

/// The message with which this configuration is refused.
fn message(code: RefusalCode, change: impl FnOnce(&mut ClusterSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    let refusal = Cluster::of(3).configure(spec).expect_err("refused");
    assert_eq!(refusal.code, code, "{}", refusal.message);
    refusal.message
}

fn invalid(change: impl FnOnce(&mut ClusterSpec)) -> String {
    message(RefusalCode::Invalid, change)
}

fn unsupported(change: impl FnOnce(&mut ClusterSpec)) -> String {
    message(RefusalCode::Unsupported, change)
}

fn pool(text: &str) -> Vec<Prefix> {
    vec![text.parse().unwrap()]
}

#[test]
fn a_configuration_is_compared_and_set() {
    let mut cluster = Cluster::of(2);
    assert_eq!(cluster.record.cluster.revision, 1);
    cluster.configure(spec()).unwrap();
    assert_eq!(cluster.record.cluster.revision, 2);
    let stale = ControlCommand::Configure { expected: 1, spec: Box::new(spec()), force: None };
    let message = cluster.refused(RefusalCode::RevisionConflict, stale);
    assert_eq!(message, "the configuration is at revision 2, the change was made against 1");
}

#[test]
fn vips_and_lips_stay_out_of_each_other_and_of_connected_subnets() {
    assert_eq!(
        invalid(|s| s.lip_pool = pool("203.0.113.0/24")),
        "VIP 203.0.113.10 of listener \"web\" lies in the LIP pool (203.0.113.0/24)"
    );
    let text = invalid(|s| s.lip_pool = pool("10.0.2.64/28"));
    assert_eq!(
        text,
        "LIP pool 10.0.2.64/28 overlaps 10.0.2.0/24, which is directly connected to director d2"
    );
    let text = invalid(|s| s.listeners[0].vip = "10.0.3.9".parse().unwrap());
    assert_eq!(
        text,
        "listener web: VIP 10.0.3.9 lies in 10.0.3.0/24, which is directly connected to director d3"
    );
    let text = invalid(|s| s.groups[0].backends[0].address = "203.0.113.10:81".parse().unwrap());
    assert!(text.contains("203.0.113.10 is a VIP"), "{text}");
    let text = invalid(|s| s.groups[0].backends[0].address = "10.99.0.3:80".parse().unwrap());
    assert!(text.contains("inside the LIP pool (10.99.0.0/28)"), "{text}");
}

#[test]
fn names_and_places_are_unique_and_groups_exist() {
    let text = invalid(|s| s.listeners.push(s.listeners[0].clone()));
    assert!(text.contains("two listeners are called \"web\""), "{text}");
    assert!(text.contains("are both tcp 203.0.113.10:80"), "all problems: {text}");
    let text = invalid(|s| s.listeners[0].group = "db".into());
    assert_eq!(text, "listener \"web\" sends to group \"db\", which does not exist");
    let text = invalid(|s| s.groups.push(s.groups[0].clone()));
    assert!(text.contains("two groups are called \"web\""), "{text}");
    let text = invalid(|s| s.groups[0].backends[1].name = "b1".into());
    assert_eq!(text, "two backends are called \"web/b1\"");
    let text = invalid(|s| s.groups[0].backends[1].address = s.groups[0].backends[0].address);
    assert_eq!(text, "backends \"web/b1\" and \"web/b2\" are both 10.9.0.1:80");
}

#[test]
fn values_make_sense() {
    let text = invalid(|s| s.listeners[0].port = 0);
    assert!(text.contains("the port of listener \"web\" is 0"), "{text}");
    let text = invalid(|s| s.listeners[0].idle_timeout_ms = 0);
    assert!(text.contains("`idle-timeout` of listener \"web\""), "{text}");
    let text = invalid(|s| s.listeners[0].vip = "224.0.0.5".parse().unwrap());
    assert!(text.contains("224.0.0.5 of listener \"web\" is no unicast address"), "{text}");
    let text = invalid(|s| s.groups[0].health.rise = 0);
    assert!(text.contains("health `rise` of group \"web\" is 0"), "{text}");
    let text = invalid(|s| s.lips_per_director = 0);
    assert!(text.contains("`lips-per-director` is 0"), "{text}");
    let text = invalid(|s| s.lip_pool.clear());
    assert!(text.contains("`lip-pool` is empty"), "{text}");
    let text = invalid(|s| s.lip_pool.push("10.99.0.0/30".parse().unwrap()));
    assert!(text.contains("10.99.0.0/30 and 10.99.0.0/28, which overlap"), "{text}");
}

#[test]
fn what_is_not_there_yet_is_named() {
    let text = unsupported(|s| s.listeners[0].mode = ForwardingMode::DsrTunnel);
    assert_eq!(text, "mode \"dsr-tunnel\" of listener \"web\" is not there yet");
    let text = unsupported(|s| s.listeners[0].vip = "2001:db8::1".parse().unwrap());
    assert!(text.contains("IPv6 listeners"), "{text}");
    let text =
        unsupported(|s| s.groups[0].backends[0].address = "[2001:db8::2]:80".parse().unwrap());
    assert!(text.contains("IPv6 backends"), "{text}");
}

#[test]
fn a_pool_too_small_shows_the_arithmetic() {
    assert_eq!(
        invalid(|s| s.lip_pool = pool("10.99.0.0/30")),
        "the LIP pool is too small: 3 directors x 2 LIPs = 6, but it has 4 addresses, 0 of them in \
         quarantine"
    );
    let mut cluster = Cluster::of(2);
    cluster.configure(ClusterSpec { lip_pool: pool("10.99.0.0/30"), ..spec() }).unwrap();
    let refusal = cluster.join(3).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Precondition);
    assert!(refusal.message.contains("3 directors x 2 LIPs = 6"), "{}", refusal.message);
}

#[test]
fn lips_are_stable_and_leave_through_quarantine() {
    let mut cluster = Cluster::of(2);
    cluster.configure(spec()).unwrap();
    let lips = |c: &Cluster, n: u32| -> Vec<String> {
        c.record.cluster.lips_of(DirectorId(n)).map(|ip| ip.to_string()).collect()
    };
    assert_eq!(lips(&cluster, 1), ["10.99.0.0", "10.99.0.1"]);
    assert_eq!(lips(&cluster, 2), ["10.99.0.2", "10.99.0.3"]);
    cluster.join(3).unwrap();
    assert_eq!(lips(&cluster, 3), ["10.99.0.4", "10.99.0.5"]);
    cluster.done(state(2, MemberState::Draining));
    cluster.done(state(2, MemberState::Drained));
    cluster.done(remove(2));
    let quarantined: Vec<String> = cluster
        .record
        .cluster
        .lips
        .iter()
        .filter(|(_, a)| a.quarantined && a.owner.is_none())
        .map(|(ip, _)| ip.to_string())
        .collect();
    assert_eq!(quarantined, ["10.99.0.2", "10.99.0.3"]);
    assert_eq!(lips(&cluster, 1), ["10.99.0.0", "10.99.0.1"], "nobody else's moved");
    let lip = "10.99.0.2".parse().unwrap();
    cluster.done(ControlCommand::ReleaseLip { lip });
    cluster.refused(RefusalCode::Precondition, ControlCommand::ReleaseLip { lip });
    let nowhere = "10.1.1.1".parse().unwrap();
    cluster.refused(RefusalCode::NotFound, ControlCommand::ReleaseLip { lip: nowhere });
    // Another pool: the old addresses may still have sessions.
    cluster.configure(ClusterSpec { lip_pool: pool("10.98.0.0/28"), ..spec() }).unwrap();
    assert_eq!(lips(&cluster, 1), ["10.98.0.0", "10.98.0.1"]);
    let old = &cluster.record.cluster.lips[&"10.99.0.0".parse().unwrap()];
    assert_eq!((old.owner, old.quarantined), (None, true));
    // Fewer for each: the surplus goes the same way.
    let fewer = ClusterSpec { lip_pool: pool("10.98.0.0/28"), lips_per_director: 1, ..spec() };
    cluster.configure(fewer).unwrap();
    assert_eq!(lips(&cluster, 1), ["10.98.0.0"]);
    assert!(cluster.record.cluster.lips[&"10.98.0.1".parse().unwrap()].quarantined);
}

#[test]
fn numbers_stay_with_what_stays_and_are_never_given_twice() {
    let mut cluster = Cluster::of(1);
    cluster.configure(spec()).unwrap();
    let backend = |c: &Cluster, n: &str| c.record.cluster.groups["web"].backends[n].id;
    let (b1, b2) = (backend(&cluster, "b1"), backend(&cluster, "b2"));
    let listener = cluster.record.cluster.listeners["web"].id;
    let mut heavier = spec();
    heavier.groups[0].backends[0].weight = 9;
    heavier.listeners[0].idle_timeout_ms = 5_000;
    cluster.configure(heavier).unwrap();
    assert_eq!((backend(&cluster, "b1"), backend(&cluster, "b2")), (b1, b2));
    assert_eq!(cluster.record.cluster.listeners["web"].id, listener);
    let mut fewer = spec();
    fewer.groups[0].backends.remove(0);
    cluster.configure(fewer).unwrap();
    cluster.configure(spec()).unwrap();
    assert_ne!(backend(&cluster, "b1"), b1, "removed and added again is a new one");
    let mut moved = spec();
    moved.groups[0].backends[1].address.set_port(81);
    moved.listeners[0].port = 81;
    cluster.configure(moved).unwrap();
    assert_ne!(backend(&cluster, "b2"), b2, "another address is another backend");
    assert_ne!(cluster.record.cluster.listeners["web"].id, listener);
}
