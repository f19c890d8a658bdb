//! `irm layer`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto::irm as pb;
use proto::irm::authority_act::Act;
use proto::{Code, Label, Reason};
use serde_json::json;

use super::{Context, now, texts};
use crate::args::{Invite, LayerVerb, Rollover, Sealed};
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
        LayerVerb::Export(args) => export(c, args).await,
        LayerVerb::Import {
            sealed,
            keep_sealed,
        } => import(c, sealed, keep_sealed).await,
        LayerVerb::Rollover(args) => rollover(c, args).await,
        LayerVerb::Seal {
            layer,
            passphrase_file,
            off,
        } => {
            let passphrase = passphrase_file.as_deref().map(passphrase);
            let passphrase = passphrase.transpose()?.unwrap_or_default();
            act(c, layer, Act::Seal(pb::SealAuthority { passphrase, off })).await
        }
        LayerVerb::Unlock {
            layer,
            passphrase_file,
        } => act(c, layer, Act::Unlock(passphrase(&passphrase_file)?)).await,
        LayerVerb::Lock { layer } => act(c, layer, Act::Lock(pb::LockAuthority {})).await,
        LayerVerb::Show { layer } => show(c, layer).await,
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
    said(c, layer, act).await?;
    c.out.done()
}

async fn said(c: &Context, layer: Label, act: Act) -> Result<Vec<u8>, Reason> {
    let request = pb::AuthorityRequest {
        layer: layer.to_string(),
        act: Some(pb::AuthorityAct { act: Some(act) }),
    };
    let reply = answer(QUICK, c.admin().await?.rpc.authority(request)).await?;
    Ok(reply.exported)
}

async fn export(c: &Context, args: Sealed) -> Result<(), Reason> {
    let passphrase = passphrase(&args.passphrase_file)?;
    // Before the key is asked for: an export that can't be kept is none.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file)
        .map_err(|e| broken(&args.file, "write", &e))?;
    let written = match said(c, args.layer, Act::Export(passphrase)).await {
        Ok(exported) => file
            .write_all(&exported)
            .and_then(|()| file.sync_all())
            .map_err(|e| broken(&args.file, "write", &e)),
        Err(reason) => Err(reason),
    };
    if written.is_err() {
        // It is ours, and empty or torn.
        let _ = std::fs::remove_file(&args.file);
    }
    written?;
    c.out.done()
}

async fn rollover(c: &Context, args: Rollover) -> Result<(), Reason> {
    let rollover = pb::Rollover {
        finish: args.finish,
        force: args.force,
        ends_in_s: args.ends.map_or(0, |ends| ends.as_secs().max(1)),
    };
    act(c, args.layer, Act::Rollover(rollover)).await
}

async fn show(c: &Context, layer: Label) -> Result<(), Reason> {
    let trust = ask(c, layer.clone()).await?.trust.ok_or_else(|| {
        let text = format!(
            "{layer} has no authority of its own: it is a shim's, or its certificates come from the site's PKI"
        );
        Reason::new(Code::NotFound, text)
    })?;
    let mut shown = json::trust(&trust);
    if let Some(keys) = shown.as_object_mut() {
        keys.insert("layer".to_owned(), json!(layer.as_str()));
    }
    c.out.answer(shown, || table::trust(&trust, now()))
}

async fn import(c: &Context, args: Sealed, sealed: bool) -> Result<(), Reason> {
    let import = pb::ImportAuthority {
        file: std::fs::read(&args.file).map_err(|e| broken(&args.file, "read", &e))?,
        passphrase: passphrase(&args.passphrase_file)?,
        sealed,
    };
    act(c, args.layer, Act::Import(import)).await
}

/// The first line of a file, or of the standard input.
pub(super) fn passphrase(file: &Path) -> Result<Vec<u8>, Reason> {
    let mut line = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().read_line(&mut line),
        false => File::open(file).and_then(|f| BufReader::new(f).read_line(&mut line)),
    };
    read.map_err(|e| broken(file, "read", &e))?;
    Ok(line.trim_end_matches(['\n', '\r']).as_bytes().to_vec())
}

fn broken(file: &Path, what: &str, error: &std::io::Error) -> Reason {
    let text = format!("cannot {what} {}: {error}", file.display());
    Reason::new(Code::Failed, text)
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
