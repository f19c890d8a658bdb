//! Networks behind members: what this one offers to the layer, and what is to be thought of what others offer. It must not
//! route anything: that is for who uses the layer.

use ipnet::IpNet;
use proto::ipcp::{Answer, CommandId};
use proto::{Code, Reason, irm};

use super::Unicast;
use crate::Now;
use crate::crypt::MemberCert;
use crate::policy::Act;
use crate::route::MAX_OFFERS;

impl Unicast {
    /// Offers these networks from now on, and no others.
    pub(super) fn offer(&mut self, now: Now, command: CommandId, networks: Vec<IpNet>) {
        let answer = self.offered(now, networks).map(|()| Answer::Ok);
        self.done(command, answer);
    }

    fn offered(&mut self, now: Now, networks: Vec<IpNet>) -> Result<(), Reason> {
        if networks.len() > MAX_OFFERS {
            let text = format!("a member offers at most {MAX_OFFERS} networks; take some together");
            return Err(Reason::new(Code::Usage, text));
        }
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        let record = me.routing.lsdb.set_offers(now, &me.identity, networks);
        self.flood(now, record.into_iter().collect(), None);
        self.members_changed();
        Ok(())
    }

    /// What a member offers, and what the policy says of its offering it and of our taking it.
    pub(super) fn status_offers(&self, from: &MemberCert) -> Vec<irm::OfferedNetwork> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let offers = me.routing.lsdb.offers(from.address()).iter();
        let judged = offers.map(|net| {
            let (may, why) = me.law.decide_network(Act::Offer, net, from);
            let (take, take_why) = me.law.decide_network(Act::Take, net, me.identity.cert());
            let (verdict, why) = match (may, take) {
                (Some(false), _) => ("denied", why),
                (_, Some(false)) => ("denied", take_why),
                (Some(true), Some(true)) => ("allowed", why),
                (None, _) => ("silent", why),
                (Some(true), None) => ("silent", take_why),
            };
            irm::OfferedNetwork {
                network: net.to_string(),
                verdict: verdict.to_owned(),
                why,
            }
        });
        judged.collect()
    }
}
