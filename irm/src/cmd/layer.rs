//! `irm layer`.

use proto::irm as pb;
use proto::irm::authority_act::Act;
use proto::{Label, Reason};
use serde_json::json;

use super::{Context, now, texts};
use crate::args::{Invite, LayerVerb};
use crate::client::{QUICK, answer};
use crate::duration::millis;
use crate::out::{json, table};

pub(crate) async fn run(c: &Context, verb: LayerVerb) -> Result<(), Reason> {
    match verb {
        LayerVerb::Invite(args) => invite(c, args).await,
        LayerVerb::Revoke { layer, member } => act(c, layer, Act::Revoke(member.to_string())).await,
        LayerVerb::Delegate {
            layer,
            member,
            prefixes,
        } => {
            let delegate = pb::Delegate {
                member: member.to_string(),
                prefixes: texts(&prefixes),
            };
            act(c, layer, Act::Delegate(delegate)).await
        }
        LayerVerb::Undelegate { layer, member } => {
            act(c, layer, Act::Undelegate(member.to_string())).await
        }
        LayerVerb::Members { layer } => {
            let members = ask(c, layer).await?.members;
            let shown = json!({"members": members.iter().map(json::member).collect::<Vec<_>>()});
            c.out.answer(shown, || table::members(&members, now()))
        }
        LayerVerb::Routes { layer } => {
            let reply = ask(c, layer).await?;
            let shown = json!({
                "routes": reply.routes.iter().map(json::route).collect::<Vec<_>>(),
                "links": reply.links.iter().map(json::link).collect::<Vec<_>>(),
            });
            c.out.answer(shown, || table::routes(&reply.routes))
        }
    }
}

async fn invite(c: &Context, args: Invite) -> Result<(), Reason> {
    let request = pb::InviteRequest {
        layer: args.layer.to_string(),
        member: args.member.map(|m| m.to_string()).unwrap_or_default(),
        prefixes: texts(&args.prefixes),
        expires_ms: millis(args.expires),
        uses: args.uses,
        groups: texts(&args.groups),
    };
    let url = answer(QUICK, c.admin().await?.rpc.invite(request))
        .await?
        .url;
    c.out.answer(json!({"url": url}), || url.clone())
}

/// Has the authority of a layer do something that needs no answer.
pub(super) async fn act(c: &Context, layer: Label, act: Act) -> Result<(), Reason> {
    let request = pb::AuthorityRequest {
        layer: layer.to_string(),
        act: Some(pb::AuthorityAct { act: Some(act) }),
    };
    answer(QUICK, c.admin().await?.rpc.authority(request)).await?;
    c.out.done()
}

async fn ask(c: &Context, layer: Label) -> Result<pb::LayerReply, Reason> {
    answer(
        QUICK,
        c.admin().await?.rpc.layer(pb::LayerRef {
            layer: layer.to_string(),
        }),
    )
    .await
}
