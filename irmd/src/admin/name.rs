//! What an administrator does with names.

use std::sync::Arc;

use proto::irm::{BindRequest, RegisterNameRequest};
use proto::{Code, Label, Name, Reason};

use crate::daemon::Daemon;
use crate::policy;
use crate::registry::Bound;
use crate::session::start_time;

/// Creates a name.
pub(crate) fn create(daemon: &Daemon, name: String) -> Result<(), Reason> {
    let name = allowed(daemon, name)?;
    daemon.change_names(|names| {
        names.create(name);
        Ok(())
    })
}

/// Forgets a name, with its bindings and registrations. Here as below, removing what is not there succeeds.
pub(crate) fn destroy(daemon: &Daemon, name: String) -> Result<(), Reason> {
    let name = Name::new(name)?;
    daemon.change_names(|names| {
        names.destroy(&name);
        Ok(())
    })
}

/// Registers a name in layers; returns when they have it, or at once where a layer is not up yet. What a policy forbids
/// stays wanted.
pub(crate) async fn register(
    daemon: &Arc<Daemon>,
    request: RegisterNameRequest,
) -> Result<(), Reason> {
    let name = allowed(daemon, request.name)?;
    let layers = labels(request.layers)?;
    for layer in &layers {
        daemon.in_layer(layer)?;
    }
    daemon.change_names(|names| {
        layers
            .iter()
            .for_each(|layer| names.register(name.clone(), layer.clone()));
        Ok(())
    })?;
    for layer in &layers {
        let ipcp = daemon.in_layer(layer)?;
        if let Some(reason) = daemon.reconcile_names(&ipcp).await.remove(&name) {
            if reason.code == Code::Denied {
                // A policy is live: what it forbids today it may allow tomorrow.
                let text = format!(
                    "{}; it registers by itself as soon as that is allowed, unless it is unregistered",
                    reason.text
                );
                return Err(Reason::new(Code::Denied, text));
            }
            daemon.change_names(|names| {
                names.unregister(&name, layer);
                Ok(())
            })?;
            return Err(reason);
        }
    }
    Ok(())
}

/// Takes the registrations of an administrator back; those of programs that listen end with the programs.
pub(crate) async fn unregister(
    daemon: &Arc<Daemon>,
    request: RegisterNameRequest,
) -> Result<(), Reason> {
    let name = Name::new(request.name)?;
    let layers = labels(request.layers)?;
    daemon.change_names(|names| {
        layers
            .iter()
            .for_each(|layer| names.unregister(&name, layer));
        Ok(())
    })?;
    for layer in &layers {
        if let Ok(ipcp) = daemon.in_layer(layer) {
            daemon.reconcile_names(&ipcp).await;
        }
    }
    Ok(())
}

/// Binds a program or a process to a name.
pub(crate) fn bind(daemon: &Daemon, request: BindRequest) -> Result<(), Reason> {
    let name = allowed(daemon, request.name)?;
    let binding = request
        .binding
        .ok_or_else(|| Reason::new(Code::Usage, "the field binding is missing"))?;
    let bound = match (binding.program.is_empty(), binding.pid) {
        (true, 0) => {
            return Err(Reason::new(
                Code::Usage,
                "the binding names neither a program nor a process; give one of them",
            ));
        }
        (false, 1..) => {
            return Err(Reason::new(
                Code::Usage,
                "the binding names a program and a process; give one of them",
            ));
        }
        (true, pid) => {
            let start = start_time(pid).ok_or_else(|| {
                Reason::new(
                    Code::NotFound,
                    format!("no process {pid} on this host; look for its number with `ps`"),
                )
            })?;
            Bound::Process { pid, start }
        }
        (false, 0) => {
            // As the kernel will name the file of the process, symbolic links resolved.
            let path = std::fs::canonicalize(&binding.program).map_err(|e| {
                Reason::new(
                    Code::NotFound,
                    format!(
                        "no program {}: {e}; give the path of its file",
                        binding.program
                    ),
                )
            })?;
            Bound::Program {
                path,
                auto: binding.auto,
                args: binding.args,
            }
        }
    };
    daemon.change_names(|names| names.bind(&name, bound))
}

/// Takes a binding back.
pub(crate) fn unbind(daemon: &Daemon, request: BindRequest) -> Result<(), Reason> {
    let name = Name::new(request.name)?;
    let binding = request
        .binding
        .ok_or_else(|| Reason::new(Code::Usage, "the field binding is missing"))?;
    let given = std::path::PathBuf::from(&binding.program);
    let path = std::fs::canonicalize(&given).unwrap_or_else(|_| given.clone());
    let matches = |b: &Bound| match b {
        Bound::Program { path: bound, .. } => {
            binding.pid == 0 && (*bound == path || *bound == given)
        }
        Bound::Process { pid, .. } => *pid == binding.pid,
    };
    daemon.change_names(|names| {
        names.unbind(&name, matches);
        Ok(())
    })
}

fn allowed(daemon: &Daemon, name: String) -> Result<Name, Reason> {
    let name = Name::new(name)?;
    policy::may_administer(&name, |n| daemon.is_ipcp(n))?;
    Ok(name)
}

fn labels(texts: Vec<String>) -> Result<Vec<Label>, Reason> {
    if texts.is_empty() {
        return Err(Reason::new(
            Code::Usage,
            "the field layers is empty; give --layer L",
        ));
    }
    Ok(texts
        .into_iter()
        .map(Label::new)
        .collect::<Result<_, _>>()?)
}
