//! What an administrator asks of a layer that this host is in: invitations, authority, policy, members.

use std::sync::Arc;

use proto::ipcp::{Answer, AuthorityAct, Command, Host, Invite};
use proto::irm::{AuthorityRequest, InviteRequest, LayerReply, PolicyReply, PolicyRequest};
use proto::{Code, Label, Reason};

use crate::daemon::{COMMAND, Daemon};
use crate::ipcps::Ipcp;
use crate::reach;
use crate::spec::Kind;
use crate::status;

/// Makes an invitation, with the addresses at which this host's shims let joiners in.
pub(crate) async fn invite(daemon: &Arc<Daemon>, request: InviteRequest) -> Result<String, Reason> {
    let layer = Label::new(request.layer)?;
    let ipcp = unicast_in(daemon, &layer)?;
    let message = proto::irm::Invite {
        member: request.member,
        prefixes: request.prefixes,
        expires_ms: if request.expires_ms == 0 {
            INVITATION_MS
        } else {
            request.expires_ms
        },
        uses: request.uses.max(1),
        hints: Vec::new(),
        groups: request.groups,
    };
    let mut invite = Invite::try_from(message)?;
    let name = ipcp.name.to_name();
    let places = reach::of(daemon, &ipcp).await.into_iter();
    let hint = |place: proto::ipcp::Reach| Host {
        name: name.clone(),
        at: place.at,
    };
    invite.hints.extend(places.map(hint));
    let Answer::Invitation(url) = ipcp.call(Command::Invite(invite), COMMAND).await? else {
        let text = format!("IPC process {} made no invitation; report this", ipcp.name);
        return Err(Reason::new(Code::PeerMisbehaved, text));
    };
    Ok(url)
}

/// Does what only the holder of a layer's authority can.
pub(crate) async fn authority(
    daemon: &Arc<Daemon>,
    request: AuthorityRequest,
) -> Result<Vec<u8>, Reason> {
    let layer = Label::new(request.layer)?;
    let ipcp = unicast_in(daemon, &layer)?;
    let act = request.act.unwrap_or_default();
    let act = AuthorityAct::try_from(act)?;
    match ipcp.call(Command::Authority(act), COMMAND).await? {
        Answer::Exported(file) => Ok(file),
        Answer::Ok
        | Answer::Allocated(_)
        | Answer::Status(_)
        | Answer::Invitation(_)
        | Answer::Configured(_)
        | Answer::Policy(_) => Ok(Vec::new()),
    }
}

/// The policy of a layer, and what it says of something.
pub(crate) async fn policy(
    daemon: &Arc<Daemon>,
    request: PolicyRequest,
) -> Result<PolicyReply, Reason> {
    let ipcp = if request.layer.is_empty() {
        only_unicast(daemon)?
    } else {
        unicast_in(daemon, &Label::new(request.layer)?)?
    };
    let check = Command::Policy(request.check.unwrap_or_default());
    match ipcp.call(check, COMMAND).await? {
        Answer::Policy(reply) => Ok(reply),
        Answer::Ok
        | Answer::Allocated(_)
        | Answer::Status(_)
        | Answer::Invitation(_)
        | Answer::Exported(_)
        | Answer::Configured(_) => {
            let text = format!(
                "IPC process {} answered a question of policy with something else; restart it",
                ipcp.name
            );
            Err(Reason::new(Code::PeerMisbehaved, text))
        }
    }
}

/// The only layer with members that this host is in.
fn only_unicast(daemon: &Daemon) -> Result<Arc<Ipcp>, Reason> {
    let all = daemon.ipcps().into_iter();
    let mut all = all.filter(|i| i.kind == Kind::Unicast && i.layer().is_some());
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let text = "this host is in no unicast layer; see `irm status`";
            Err(Reason::new(Code::NotFound, text))
        }
        (Some(_), Some(_)) => {
            let text = "this host is in several unicast layers; name one with --layer";
            Err(Reason::new(Code::Usage, text))
        }
    }
}

/// Members, routes and links of a layer, as this host's member sees them.
pub(crate) async fn describe(daemon: &Arc<Daemon>, layer: &Label) -> Result<LayerReply, Reason> {
    let ipcp = daemon.in_layer(layer)?;
    let status = status::ask(&ipcp)
        .await
        .ok_or_else(|| ipcp.unreachable("it did not say how it is within 1 s"))?;
    Ok(LayerReply {
        members: status.members,
        routes: status.routes,
        links: status.links,
        trust: status.trust,
    })
}

fn unicast_in(daemon: &Daemon, layer: &Label) -> Result<Arc<Ipcp>, Reason> {
    let ipcp = daemon.in_layer(layer)?;
    if ipcp.kind == Kind::Unicast {
        return Ok(ipcp);
    }
    Err(Reason::new(
        Code::Usage,
        format!("{layer} is a shim layer, which has no members to invite; name a unicast layer"),
    ))
}

/// How long an invitation is good unless the caller says otherwise.
const INVITATION_MS: u64 = 600_000;
