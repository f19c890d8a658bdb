//! The members that were reached last where they said that they are, kept over restarts: who was let in through a member that is away
//! for good finds another. It must not keep many; each is only a place to try.

use proto::Label;
use proto::ipcp::Reach;

/// Members with their places, the newest first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Known(Vec<(Label, Vec<Reach>)>);

impl Known {
    /// Reads the file; what can't be read is nothing, since all of it is only to be tried.
    pub(super) fn read(file: &[u8]) -> Self {
        let text = std::str::from_utf8(file).ok();
        let lines = text.and_then(|text| text.strip_suffix(LAST_LINE));
        let mut known = Self::default();
        for line in lines.unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let member = words.next().and_then(|name| Label::new(name).ok());
            let at: Vec<Reach> = words.filter_map(|place| place.parse().ok()).collect();
            if let Some(member) = member.filter(|_| !at.is_empty()) {
                known.0.push((member, at));
            }
        }
        known.0.truncate(MOST);
        known
    }

    /// The file that says this.
    pub(super) fn write(&self) -> Vec<u8> {
        let line = |(member, at): &(Label, Vec<Reach>)| {
            let at: Vec<String> = at.iter().map(Reach::to_string).collect();
            format!("{member} {}\n", at.join(" "))
        };
        let lines: String = self.0.iter().map(line).collect();
        format!("{lines}{LAST_LINE}").into_bytes()
    }

    /// A member was reached. Says whether that is news to the file.
    pub(super) fn add(&mut self, member: &Label, at: &[Reach]) -> bool {
        if self.0.iter().any(|(m, known)| m == member && known == at) {
            return false;
        }
        self.0.retain(|(m, _)| m != member);
        self.0.insert(0, (member.clone(), at.to_vec()));
        self.0.truncate(MOST);
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Label, Vec<Reach>)> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const MOST: usize = 8;
/// How the file ends, so that one that was cut is known by it.
const LAST_LINE: &str = "end\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Known {
        let mut known = Known::default();
        for name in names {
            let at = ["net=10.0.0.2:3359".parse().unwrap()];
            known.add(&Label::new(*name).unwrap(), &at);
        }
        known
    }

    #[test]
    fn the_newest_eight_are_kept_over_a_restart_and_a_file_that_was_cut_is_none() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let known = known(&names);
        let kept: Vec<_> = known.iter().map(|(m, _)| m.as_str()).collect();
        assert_eq!(kept, ["i", "h", "g", "f", "e", "d", "c", "b"]);
        let file = known.write();
        assert_eq!(Known::read(&file), known);
        for len in 0..file.len() {
            assert!(Known::read(&file[..len]).is_empty());
        }
        assert!(Known::read(b"A net=1.2.3.4\nb nonsense\nend\n").is_empty());
    }

    #[test]
    fn the_same_place_again_is_no_news() {
        let mut known = known(&["a"]);
        let (a, at) = (
            Label::new("a").unwrap(),
            ["net=10.0.0.2:3359".parse().unwrap()],
        );
        assert!(!known.add(&a, &at));
        assert!(known.add(&a, &["net=10.0.0.3:3359".parse().unwrap()]));
    }
}
