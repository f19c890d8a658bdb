//! `irm bind` and `irm unbind`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proto::irm as pb;
use proto::{Code, Name, Reason};

use super::Context;
use crate::args::{BindVerb, UnbindVerb};
use crate::client::{QUICK, answer};

pub(crate) async fn bind(c: &Context, verb: BindVerb) -> Result<(), Reason> {
    let request = match verb {
        BindVerb::Program(p) => {
            let program = text(program(&p.path, std::env::var_os("PATH"))?)?;
            request(
                &p.name,
                pb::Binding {
                    program,
                    auto: p.auto,
                    args: p.args,
                    ..Default::default()
                },
            )
        }
        BindVerb::Process(p) => request(
            &p.name,
            pb::Binding {
                pid: p.pid,
                ..Default::default()
            },
        ),
    };
    answer(QUICK, c.admin().await?.rpc.bind(request)).await?;
    c.out.done()
}

pub(crate) async fn unbind(c: &Context, verb: UnbindVerb) -> Result<(), Reason> {
    let request = match verb {
        UnbindVerb::Program { path, name } => {
            // A program that is gone can still be unbound, by the path that it had.
            let path = program(&path, std::env::var_os("PATH")).unwrap_or(path);
            request(
                &name,
                pb::Binding {
                    program: text(path)?,
                    ..Default::default()
                },
            )
        }
        UnbindVerb::Process(p) => request(
            &p.name,
            pb::Binding {
                pid: p.pid,
                ..Default::default()
            },
        ),
    };
    answer(QUICK, c.admin().await?.rpc.unbind(request)).await?;
    c.out.done()
}

/// The program's real file: irmd compares it with what the kernel says of a process.
fn program(said: &Path, path: Option<OsString>) -> Result<PathBuf, Reason> {
    let shown = said.display();
    let named = said.components().count() == 1 && !said.starts_with(".");
    let found = match named {
        true => std::env::split_paths(&path.unwrap_or_default())
            .map(|dir| dir.join(said))
            .find(|file| is_program(file)),
        false => Some(said.to_path_buf()).filter(|file| file.exists()),
    };
    let found = found.ok_or_else(|| {
        let place = if named { " in $PATH" } else { "" };
        Reason::new(
            Code::NotFound,
            format!("there is no program {shown}{place}; give its path"),
        )
    })?;
    if !is_program(&found) {
        return Err(Reason::new(
            Code::Usage,
            format!("{shown} can't be executed; check its permissions"),
        ));
    }
    found
        .canonicalize()
        .map_err(|e| Reason::new(Code::Failed, format!("can't find the file of {shown}: {e}")))
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn text(path: PathBuf) -> Result<String, Reason> {
    path.into_os_string().into_string().map_err(|p| {
        Reason::new(
            Code::Usage,
            format!("the path {} is not UTF-8", p.display()),
        )
    })
}

fn request(name: &Name, binding: pb::Binding) -> pb::BindRequest {
    pb::BindRequest {
        name: name.to_string(),
        binding: Some(binding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_path_or_in_path_and_must_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap();
        let file = here.join("prog");
        std::fs::write(&file, "#!").unwrap();
        let path = || Some(here.clone().into_os_string());
        assert_eq!(program(&file, None).unwrap_err().code, Code::Usage);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program(&file, None), Ok(file.clone()));
        assert_eq!(program(Path::new("prog"), path()), Ok(file));
        assert_eq!(
            program(Path::new("other"), path()).unwrap_err().code,
            Code::NotFound
        );
        assert_eq!(
            program(Path::new("./prog-of-nobody"), path())
                .unwrap_err()
                .code,
            Code::NotFound
        );
    }
}
