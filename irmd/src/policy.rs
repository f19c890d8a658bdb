//! Who may do what with which name. Pure; the kernel's file permissions decide who is an administrator.

use proto::{Code, Label, Name, Reason};

use crate::session::Who;

/// The prefixes of names that only vpn processes use: for packets, and for frames.
const VPN: [&str; 2] = ["vpn/", "tap/"];

/// May this caller listen to the name? `is_ipcp` says whether an IPC process of this host has it.
pub(crate) fn may_listen(
    who: &Who,
    name: &Name,
    is_ipcp: impl Fn(&str) -> bool,
) -> Result<(), Reason> {
    let allowed = match who {
        Who::Ipcp(me) => name.as_str() == me.as_str(),
        Who::Vpn(_) => is_vpn(name),
        Who::Program => !reserved(name, is_ipcp),
    };
    if allowed {
        Ok(())
    } else {
        Err(denied("listen to", name))
    }
}

/// May this caller allocate a flow to the name?
pub(crate) fn may_allocate(
    who: &Who,
    name: &Name,
    is_ipcp: impl Fn(&str) -> bool,
) -> Result<(), Reason> {
    match who {
        Who::Ipcp(_) | Who::Vpn(_) => Ok(()),
        Who::Program if reserved(name, is_ipcp) => Err(denied("allocate a flow to", name)),
        Who::Program => Ok(()),
    }
}

/// May an administrator create, bind or register the name?
pub(crate) fn may_administer(name: &Name, is_ipcp: impl Fn(&str) -> bool) -> Result<(), Reason> {
    if reserved(name, is_ipcp) {
        Err(denied("change", name))
    } else {
        Ok(())
    }
}

/// May a name that is listened to by `owner` get a listener of `uid` too? Root may always.
pub(crate) fn may_share(name: &Name, owner: u32, uid: u32) -> Result<(), Reason> {
    if owner == uid || uid == 0 {
        return Ok(());
    }
    Err(Reason::new(
        Code::Denied,
        format!(
            "cannot listen to {name}: a program of another user does; choose another name, or ask user {owner}"
        ),
    ))
}

/// May a new unicast IPC process of `layer` use the layers `over`? `below` gives the layers that one uses already.
pub(crate) fn no_cycle<'a>(
    layer: &'a Label,
    over: &'a [Label],
    below: impl Fn(&Label) -> Vec<&'a Label>,
) -> Result<(), Reason> {
    let mut todo: Vec<&Label> = over.iter().collect();
    let mut seen = Vec::new();
    while let Some(next) = todo.pop() {
        if next == layer {
            let via = over
                .iter()
                .map(Label::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Reason::new(
                Code::Conflict,
                format!(
                    "layer {layer} cannot lie over {via}: that lies over {layer} itself; name other layers with --over"
                ),
            ));
        }
        if !seen.contains(&next) {
            seen.push(next);
            todo.extend(below(next));
        }
    }
    Ok(())
}

fn reserved(name: &Name, is_ipcp: impl Fn(&str) -> bool) -> bool {
    is_vpn(name) || is_ipcp(name.as_str())
}

fn is_vpn(name: &Name) -> bool {
    VPN.iter().any(|prefix| name.as_str().starts_with(prefix))
}

fn denied(what: &str, name: &Name) -> Reason {
    Reason::new(
        Code::Denied,
        format!(
            "may not {what} {name}: names of IPC processes, vpn/* and tap/* are reserved to processes that irmd started; use another name"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(s: &str) -> Name {
        Name::new(s).unwrap()
    }

    fn label(s: &str) -> Label {
        Label::new(s).unwrap()
    }

    #[test]
    fn reserved_names_are_for_processes_that_irmd_started() {
        let is_ipcp = |n: &str| n == "ovl-a";
        let me = Who::Ipcp(label("ovl-a"));
        for bad in ["ovl-a", "vpn/x", "tap/x"] {
            assert_eq!(
                may_listen(&Who::Program, &name(bad), is_ipcp)
                    .unwrap_err()
                    .code,
                Code::Denied
            );
            assert_eq!(
                may_allocate(&Who::Program, &name(bad), is_ipcp)
                    .unwrap_err()
                    .code,
                Code::Denied
            );
            assert_eq!(
                may_administer(&name(bad), is_ipcp).unwrap_err().code,
                Code::Denied
            );
        }
        assert!(may_listen(&me, &name("ovl-a"), is_ipcp).is_ok());
        assert!(may_listen(&me, &name("other"), is_ipcp).is_err());
        assert!(may_listen(&Who::Vpn("t".into()), &name("vpn/x"), is_ipcp).is_ok());
        assert!(may_listen(&Who::Vpn("t".into()), &name("x"), is_ipcp).is_err());
        assert!(may_allocate(&me, &name("ovl-b"), is_ipcp).is_ok());
        assert!(may_listen(&Who::Program, &name("echo"), is_ipcp).is_ok());
    }

    #[test]
    fn a_layer_never_lies_over_itself() {
        let (a, b, c) = (label("a"), label("b"), label("c"));
        let below = |l: &Label| match l.as_str() {
            "b" => vec![&c],
            "c" => vec![&a],
            _ => vec![],
        };
        assert_eq!(
            no_cycle(&a, std::slice::from_ref(&b), below)
                .unwrap_err()
                .code,
            Code::Conflict
        );
        assert_eq!(
            no_cycle(&a, std::slice::from_ref(&a), |_| vec![])
                .unwrap_err()
                .code,
            Code::Conflict
        );
        assert!(no_cycle(&b, std::slice::from_ref(&c), below).is_ok());
    }

    #[test]
    fn users_do_not_take_each_others_names() {
        assert!(may_share(&name("n"), 5, 5).is_ok());
        assert!(may_share(&name("n"), 5, 0).is_ok());
        assert_eq!(may_share(&name("n"), 5, 6).unwrap_err().code, Code::Denied);
    }
}
