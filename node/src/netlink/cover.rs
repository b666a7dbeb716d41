//! The fewest prefixes that hold a set of addresses and nothing else: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use holdfast_schema::prefix::Prefix;

/// Aggregates addresses (RFC 4632, section 5): two halves of a prefix become that prefix.
pub fn cover(addresses: &BTreeSet<IpAddr>) -> BTreeSet<Prefix> {
    let mut found: Vec<Prefix> = Vec::new();
    // In order of the addresses, so the other half of a prefix is always the one found last.
    for address in addresses {
        let mut next = Prefix::host(*address);
        while let Some(whole) = found.last().and_then(|before| whole(before, &next)) {
            found.pop();
            next = whole;
        }
        found.push(next);
    }
    found.into_iter().collect()
}

/// The prefix of which these two are the halves.
fn whole(lower: &Prefix, upper: &Prefix) -> Option<Prefix> {
    let length = lower.length().checked_sub(1)?;
    let both = Prefix::holding(lower.address(), length);
    (lower != upper && lower.length() == upper.length() && both.contains(upper.address()))
        .then_some(both)
}

/// Whether one of these prefixes holds all of `prefix`.
pub fn covered(by: &BTreeSet<Prefix>, prefix: &Prefix) -> bool {
    (0..=prefix.length()).any(|length| by.contains(&Prefix::holding(prefix.address(), length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_pool_becomes_its_prefix_and_the_rest_stays_single() {
        let pool: Prefix = "198.18.0.0/16".parse().unwrap();
        let mut addresses: BTreeSet<IpAddr> = pool.addresses(u64::MAX).collect();
        addresses.insert("203.0.113.10".parse().unwrap());
        addresses.insert("2001:db8::2".parse().unwrap());
        addresses.insert("2001:db8::3".parse().unwrap());
        let found = cover(&addresses);
        assert_eq!(found, prefixes(&["198.18.0.0/16", "203.0.113.10/32", "2001:db8::2/127"]));
        assert_eq!(cover(&BTreeSet::new()), BTreeSet::new());
    }

    #[test]
    fn neighbours_that_are_no_halves_stay_apart() {
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(cover(&addresses), prefixes(&["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]));
    }

    #[test]
    fn covered_means_by_one_that_is_as_wide() {
        let by = prefixes(&["10.0.0.0/24", "2001:db8::/64"]);
        let is = |text: &str| covered(&by, &text.parse().unwrap());
        assert!(is("10.0.0.0/24") && is("10.0.0.7/32") && is("2001:db8::/127"));
        assert!(!is("10.0.0.0/23") && !is("10.0.1.0/32") && !is("2001:db8:1::/64"));
    }

    proptest! {
        /// Every address is held by exactly one prefix, no prefix holds another address, and no two
        /// prefixes could be one.
        #[test]
        fn the_cover_is_exact_and_the_smallest(bytes in proptest::collection::btree_set(0u8..64, 0..64)) {
            let addresses: BTreeSet<IpAddr> =
                bytes.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect();
            let found = cover(&addresses);
            let held: Vec<IpAddr> = found.iter().flat_map(|p| p.addresses(u64::MAX)).collect();
            prop_assert_eq!(held.len(), addresses.len());
            prop_assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), addresses);
            for (a, b) in found.iter().flat_map(|a| found.iter().map(move |b| (a, b))) {
                prop_assert!(whole(a, b).is_none(), "{} and {}", a, b);
            }
        }
    }
}
