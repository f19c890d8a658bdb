//! Where what is kept of members lies: three places each, named by number. A place is kept as long as somebody may speak of it, and
//! then goes to the next who comes.

use proto::Label;

use super::{Core, Peer};
use crate::class::Class;
use crate::flow::FlowPort;
use crate::prefix::PeerId;

impl<F: FlowPort> Core<F> {
    /// The number of a member, a new one if need be.
    pub(super) fn number(&mut self, me: &Label, name: &Label) -> PeerId {
        if let Some(id) = self.numbers.get(name) {
            return *id;
        }
        // Who comes back has what was his, and a dial that is still under way.
        let old = self.left.remove(name);
        let id = old.unwrap_or_else(|| self.free(me, name));
        for class in Class::ALL {
            self.peers[place(id, class).0 as usize].member = true;
        }
        self.numbers.insert(name.clone(), id);
        id
    }

    /// Places of somebody who has left, unless a dial to him is under way, which would be answered there; else new ones.
    fn free(&mut self, me: &Label, name: &Label) -> PeerId {
        let unused = |id: PeerId| {
            let places = Class::ALL.map(|class| &self.peers[place(id, class).0 as usize]);
            places.iter().all(|peer| !peer.session.is_dialling())
        };
        let found = self.left.iter().find(|(_, id)| unused(**id));
        let Some((old, id)) = found.map(|(old, id)| (old.clone(), *id)) else {
            let id = PeerId(self.peers.len() as u32);
            let all = Class::ALL.map(|_| Peer::new(me, name.clone()));
            self.peers.extend(all);
            return id;
        };
        self.left.remove(&old);
        self.filter.forget(id);
        for class in Class::ALL {
            self.peers[place(id, class).0 as usize] = Peer::new(me, name.clone());
        }
        id
    }
}

/// The place of a member's flow of a class.
pub(super) fn place(member: PeerId, class: Class) -> PeerId {
    PeerId(member.0 + class as u32)
}

/// The member whose place it is.
pub(super) fn member(place: PeerId) -> PeerId {
    PeerId(place.0 - place.0 % Class::ALL.len() as u32)
}

pub(super) fn class(place: PeerId) -> Class {
    Class::ALL[place.0 as usize % Class::ALL.len()]
}
