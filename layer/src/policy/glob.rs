//! Patterns of names: `*` stands for any characters, `?` for one. It must not know what is matched.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<char>);

impl Glob {
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().collect())
    }

    /// Whether the whole of a text fits. Takes at most as many steps as the product of both lengths.
    pub(super) fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut of) = (0, 0);
        // The last star, and how much it stands for.
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(of) {
                Some('*') => {
                    star = Some((of, at));
                    of += 1;
                }
                Some(c) if *c == '?' || *c == text[at] => {
                    of += 1;
                    at += 1;
                }
                Some(_) | None => {
                    let Some((back, upto)) = star else {
                        return false;
                    };
                    star = Some((back, upto + 1));
                    (of, at) = (back + 1, upto + 1);
                }
            }
        }
        self.0[of..].iter().all(|c| *c == '*')
    }

    /// Whether everything fits.
    pub(super) fn is_all(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|c| *c == '*')
    }

    /// The only text that fits, if there is only one.
    pub(super) fn literal(&self) -> Option<String> {
        let plain = !self.0.iter().any(|c| matches!(c, '*' | '?'));
        plain.then(|| self.0.iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by its definition.
    fn plain(glob: &[char], text: &[char]) -> bool {
        match (glob.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                plain(&glob[1..], text) || (!text.is_empty() && plain(glob, &text[1..]))
            }
            (Some(g), Some(t)) if *g == '?' || g == t => plain(&glob[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_fits_what_its_definition_says(glob in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let (g, t): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(&glob).fits(&text), plain(&g, &t));
        }

        #[test]
        fn a_literal_fits_itself_only(text in "[a-z/ü]{1,20}", other in "[a-z/ü]{1,20}") {
            let glob = Glob::new(&text);
            prop_assert_eq!(glob.literal(), Some(text.clone()));
            prop_assert_eq!(glob.fits(&other), text == other);
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let glob = Glob::new(&"*a".repeat(120));
        assert!(!glob.fits(&format!("{}b", "a".repeat(254))));
        assert!(Glob::new("**").is_all() && !Glob::new("").is_all());
        assert!(Glob::new("svc/*").fits("svc/a/b") && !Glob::new("svc/*").fits("svc"));
    }
}
