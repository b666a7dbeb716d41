//! "Did you mean": the closest of the words that would have been right.

/// The candidate that is most like `given`, if one is like it at all.
///
/// Likeness is the optimal string alignment distance (insertions, deletions, substitutions and
/// swaps of neighbours), a third of the longer word at the most; `_` and `-`, upper and lower
/// case count as equal.
pub fn closest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let given = plain(given);
    candidates
        .into_iter()
        .map(|candidate| (distance(&given, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| {
            *distance * 3 <= given.len().max(candidate.chars().count()).max(3)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> Vec<char> {
    // Longer words than any key of ours are not worth the quadratic effort.
    word.chars().take(64).map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut grid = vec![0usize; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let at = i * width + j;
            grid[at] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitute = grid[at - width - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitute.min(grid[at - width] + 1).min(grid[at - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(grid[at - 2 * width - 2] + 1);
                }
                best
            };
        }
    }
    grid[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let keys = ["replicate-after", "idle-timeout", "port", "vip", "group"];
        assert_eq!(closest("replicate_after", keys), Some("replicate-after"));
        assert_eq!(closest("idle-tiemout", keys), Some("idle-timeout"));
        assert_eq!(closest("Port", keys), Some("port"));
        assert_eq!(closest("vips", keys), Some("vip"));
        assert_eq!(closest("gruop", keys), Some("group"));
        assert_eq!(closest("colour", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
