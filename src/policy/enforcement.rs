//! What a user's own statement meets that would destroy what a statutory minimum keeps. Pure.

/// What it meets. Sweeps dispose of nothing that a minimum keeps, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// An error.
    #[default]
    Refuse,
    /// A warning, which is recorded.
    Warn,
}

impl Enforcement {
    pub const fn as_str(self) -> &'static str {
        match self {
            Enforcement::Refuse => "refuse",
            Enforcement::Warn => "warn",
        }
    }

    /// Reads what `as_str` writes; `None` for every other text.
    pub fn parse(text: &str) -> Option<Enforcement> {
        [Enforcement::Refuse, Enforcement::Warn]
            .into_iter()
            .find(|known| known.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_no_others() {
        for known in [Enforcement::Refuse, Enforcement::Warn] {
            assert_eq!(Enforcement::parse(known.as_str()), Some(known));
        }
        for other in ["", "on", "Warn", " warn"] {
            assert_eq!(Enforcement::parse(other), None, "{other}");
        }
    }
}
