//! `irm name`.

use proto::irm as pb;
use proto::{Name, Reason};
use serde_json::json;

use super::{Context, texts};
use crate::args::{NameVerb, Register};
use crate::client::{QUICK, answer};
use crate::out::{json, table};

pub(crate) async fn run(c: &Context, verb: NameVerb) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    match verb {
        NameVerb::Create { name } => answer(QUICK, admin.rpc.create_name(reference(&name))).await?,
        NameVerb::Destroy { name } => {
            answer(QUICK, admin.rpc.destroy_name(reference(&name))).await?
        }
        NameVerb::Register(args) => {
            answer(QUICK, admin.rpc.register_name(registration(&args))).await?
        }
        NameVerb::Unregister(args) => {
            answer(QUICK, admin.rpc.unregister_name(registration(&args))).await?
        }
        NameVerb::List => {
            let names = answer(QUICK, admin.rpc.list_names(pb::Empty {}))
                .await?
                .names;
            let shown = json!({"names": names.iter().map(json::name).collect::<Vec<_>>()});
            return c.out.answer(shown, || table::names(&names));
        }
    };
    c.out.done()
}

fn reference(name: &Name) -> pb::NameRef {
    pb::NameRef {
        name: name.to_string(),
    }
}

fn registration(args: &Register) -> pb::RegisterNameRequest {
    pb::RegisterNameRequest {
        name: args.name.to_string(),
        layers: texts(&args.layers),
    }
}
