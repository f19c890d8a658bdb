//! `irm policy`.

use std::io::Read;
use std::path::Path;

use proto::irm as pb;
use proto::irm::authority_act::Act;
use proto::{Code, Label, Reason};
use serde_json::json;

use super::{Context, layer};
use crate::args::PolicyVerb;
use crate::client::{QUICK, answer};

pub(crate) async fn run(c: &Context, verb: PolicyVerb) -> Result<(), Reason> {
    match verb {
        PolicyVerb::Set { layer, file } => {
            let text = read(&file)?;
            // Nothing at all would mean that there is no policy.
            if text.is_empty() {
                let why = format!("{} is empty; see irm policy unset", file.display());
                return Err(Reason::new(Code::Usage, why));
            }
            layer::act(c, layer, Act::Policy(text)).await
        }
        PolicyVerb::Unset { layer } => layer::act(c, layer, Act::Policy(String::new())).await,
        PolicyVerb::Show { layer } => {
            let reply = ask(c, layer, pb::PolicyCheck::default()).await?;
            let shown = json!({"number": reply.number, "text": reply.text});
            c.out.answer(shown, || match reply.number {
                0 => "no policy: every member may do everything".to_owned(),
                number => format!("# policy {number}\n{}", reply.text.trim_end()),
            })
        }
        PolicyVerb::Check {
            from,
            to,
            offer,
            send,
            at,
            layer,
        } => {
            let check = pb::PolicyCheck {
                name: to.map(|to| to.to_string()).unwrap_or_default(),
                from: from.to_string(),
                at: at.map(|at| at.to_string()).unwrap_or_default(),
                network: offer.map(|net| net.to_string()).unwrap_or_default(),
                send: send.unwrap_or_default(),
            };
            judged(c, &ask(c, layer, check).await?)
        }
    }
}

/// Shows what was judged; what is denied is an error.
fn judged(c: &Context, reply: &pb::PolicyReply) -> Result<(), Reason> {
    let line = |j: &pb::Judgement| {
        let may = if j.allowed { "may" } else { "may not" };
        format!("{} {may} {} {}: {}", j.member, j.act, j.name, j.why)
    };
    if let Some(denied) = reply.judgements.iter().find(|j| !j.allowed) {
        return Err(Reason::new(Code::Denied, line(denied)));
    }
    let all = reply.judgements.iter();
    let shown = all.map(|j| json!({"member": j.member, "act": j.act, "name": j.name, "allowed": j.allowed, "why": j.why}));
    let shown = json!({"policy": reply.number, "judgements": shown.collect::<Vec<_>>()});
    c.out.answer(shown, || {
        let lines: Vec<String> = reply.judgements.iter().map(line).collect();
        lines.join("\n")
    })
}

async fn ask(
    c: &Context,
    layer: Option<Label>,
    check: pb::PolicyCheck,
) -> Result<pb::PolicyReply, Reason> {
    let request = pb::PolicyRequest {
        layer: layer.map(|l| l.to_string()).unwrap_or_default(),
        check: Some(check),
    };
    answer(QUICK, c.admin().await?.rpc.policy(request)).await
}

fn read(file: &Path) -> Result<String, Reason> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_TEXT)
            .read_to_string(&mut text)
            .map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|e| {
        Reason::new(
            Code::Usage,
            format!("can't read the rules in {}: {e}", file.display()),
        )
    })
}

/// What is read from stdin; the layer takes less.
const MAX_TEXT: u64 = 1 << 20;
