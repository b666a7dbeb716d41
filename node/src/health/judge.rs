//! The judgement of one backend by one director: successes and failures in a row.

/// What one director thinks of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judge {
    healthy: Option<bool>,
    /// Results in a row that contradict the present judgement.
    against: u8,
    /// It has been healthy before. Until then one success is enough, so that a new backend
    /// serves as soon as it answers once.
    proven: bool,
}

impl Judge {
    /// The judgement; none: no result yet.
    pub fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    /// Takes a result; tells whether the judgement changed.
    pub fn record(&mut self, success: bool, rise: u8, fall: u8) -> bool {
        if self.healthy == Some(success) {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let needed = match (self.healthy, success) {
            (None, _) => 1,
            (_, true) if !self.proven => 1,
            (_, true) => rise.max(1),
            (_, false) => fall.max(1),
        };
        if self.against < needed {
            return false;
        }
        *self = Judge { healthy: Some(success), against: 0, proven: self.proven || success };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(results: &str, rise: u8, fall: u8) -> Vec<Option<bool>> {
        let mut judge = Judge::default();
        results
            .chars()
            .map(|c| {
                judge.record(c == '+', rise, fall);
                judge.healthy()
            })
            .collect()
    }

    #[test]
    fn the_first_result_decides_and_a_new_backend_needs_one_success() {
        assert_eq!(run("+", 3, 3), [Some(true)]);
        assert_eq!(run("--+", 3, 3), [Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn afterwards_rise_and_fall_count_in_a_row() {
        let (up, down) = (Some(true), Some(false));
        assert_eq!(run("+--+---", 2, 3), [up, up, up, up, up, up, down]);
        assert_eq!(run("+---+-++", 2, 3), [up, up, up, down, down, down, down, up]);
    }
}
