//! Who may use the proxy: a file of `NAME:PASSWORD`, a line each.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proto::{Code, Reason};

use super::wire::Login;

/// All who may. It is never printed.
pub(super) struct Users(Vec<Login>);

impl Users {
    /// Reads them; a file that everybody can read is refused.
    pub(super) fn read(path: &Path) -> Result<Self, Reason> {
        let broken = |e| {
            let text = format!("can't read {}: {e}", path.display());
            Reason::new(Code::Failed, text)
        };
        let file = File::open(path).map_err(broken)?;
        let mode = file.metadata().map_err(broken)?.permissions().mode();
        if mode & 0o007 != 0 {
            let path = path.display();
            let text = format!("everybody can read {path}, which holds passwords; chmod o= {path}");
            return Err(Reason::new(Code::Denied, text));
        }
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).map_err(broken)?;
        Self::parse(&text).map_err(|line| {
            let text = format!(
                "line {line} of {} is no NAME:PASSWORD with 1 to 255 bytes each, or there is none",
                path.display()
            );
            Reason::new(Code::Usage, text)
        })
    }

    /// Whether they know each other. Takes as long for a wrong name or password as for a right one of the same length.
    pub(super) fn know(&self, login: &Login) -> bool {
        let same =
            |user: &Login| equal(&user.name, &login.name) & equal(&user.password, &login.password);
        self.0.iter().fold(false, |found, user| found | same(user))
    }

    /// Or the number of the first line that is wrong.
    fn parse(text: &[u8]) -> Result<Self, usize> {
        let mut users = Vec::new();
        for (at, line) in text.split(|b| *b == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let colon = line.iter().position(|b| *b == b':').ok_or(at + 1)?;
            let (name, password) = (&line[..colon], &line[colon + 1..]);
            if [name, password]
                .iter()
                .any(|part| !(1..256).contains(&part.len()))
            {
                return Err(at + 1);
            }
            users.push(Login {
                name: name.to_vec(),
                password: password.to_vec(),
            });
        }
        match users.is_empty() {
            true => Err(1),
            false => Ok(Self(users)),
        }
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(a.len() ^ b.len(), |d, (a, b)| {
        black_box(d | usize::from(a ^ b))
    });
    differ == 0
}

const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn login(name: &str, password: &str) -> Login {
        Login {
            name: name.into(),
            password: password.into(),
        }
    }

    #[test]
    fn who_stands_in_the_file_is_known_with_that_password_only() {
        let users = Users::parse(b"ann:one\r\n\nbob:two:three\n").ok().unwrap();
        assert!(users.know(&login("ann", "one")) && users.know(&login("bob", "two:three")));
        for (name, password) in [
            ("ann", "two:three"),
            ("ann", ""),
            ("", "one"),
            ("ann", "one1"),
            ("an", "one"),
        ] {
            assert!(!users.know(&login(name, password)), "{name}:{password}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (text, line) in [
            ("", 1),
            ("ann", 1),
            ("ann:1\nbob", 2),
            (":x", 1),
            ("ann:", 1),
        ] {
            assert_eq!(Users::parse(text.as_bytes()).err(), Some(line), "{text:?}");
        }
    }

    #[test]
    fn a_file_for_everybody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, "ann:one").unwrap();
        for (mode, code) in [(0o600, None), (0o640, None), (0o644, Some(Code::Denied))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Users::read(&path).err().map(|r| r.code), code);
        }
    }
}
