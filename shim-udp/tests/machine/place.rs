//! Where a shim is: at an address that comes and goes, or wherever an interface is.

use std::time::Duration;

use layer::Input;
use proto::ipcp::{Command, Event, State};

use crate::bench::{Wire, ipcp};

#[test]
fn a_shim_that_follows_a_place_listens_where_that_is_and_says_so_each_time() {
    let mut wire = Wire::new(&["10.0.0.1"]);
    wire.hosts[0].listening = true;
    let mut config = wire.config(0, &[]);
    config.shim_udp.as_mut().unwrap().ip = "dev:eth0".parse().unwrap();
    wire.control(0, 1, Command::Bootstrap(config));
    let listens = |wire: &Wire| -> Vec<String> {
        let asks = wire.hosts[0].asks.iter();
        asks.filter_map(|ask| match ask {
            shim_udp::Ask::Listen(at) => Some(at.to_string()),
            _ => None,
        })
        .collect()
    };
    let states = |wire: &Wire| -> Vec<(State, String)> {
        let events = wire.hosts[0].events.iter();
        events
            .filter_map(|event| match event {
                Event::State(state, why) => Some((*state, why.clone())),
                _ => None,
            })
            .collect()
    };
    let place = |wire: &mut Wire, found: Result<&str, &str>| {
        let found = found.map(|ip| ip.parse().unwrap()).map_err(str::to_owned);
        wire.input(0, Input::Tell(shim_udp::Tell::Place(found)));
    };
    assert!(listens(&wire).is_empty() && states(&wire).is_empty());
    let refused = |wire: &mut Wire, id: u64| {
        wire.allocate(0, id, "srv", ipcp());
        let answer = wire.hosts[0].answer(id).unwrap();
        answer.as_ref().unwrap_err().text.contains("dev:eth0")
    };
    assert!(refused(&mut wire, 7));

    place(&mut wire, Ok("10.0.0.1"));
    place(&mut wire, Ok("10.0.0.1"));
    place(&mut wire, Ok("10.0.0.7"));
    assert_eq!(listens(&wire), ["10.0.0.1:3359", "10.0.0.7:3359"]);
    let up = || (State::Up, String::new());
    assert_eq!(states(&wire), [up(), up()]);
    place(&mut wire, Err("it has none"));
    place(&mut wire, Err("it has none"));
    wire.pass(Duration::from_secs(3));
    assert_eq!(listens(&wire).len(), 2, "nothing is tried meanwhile");
    assert!(refused(&mut wire, 8));
    place(&mut wire, Ok("10.0.0.7"));
    let none = (State::Waiting, "it has none".to_owned());
    assert_eq!(states(&wire), [up(), up(), none, up()]);
}

#[test]
fn a_shim_whose_address_goes_says_so_and_listens_when_it_is_back() {
    let mut wire = Wire::pair();
    let place = |wire: &mut Wire, found: Result<&str, &str>| {
        let found = found.map(|ip| ip.parse().unwrap()).map_err(str::to_owned);
        wire.hosts[1].listening = found.is_ok();
        wire.input(1, Input::Tell(shim_udp::Tell::Place(found)));
    };
    let last = |wire: &Wire| {
        let events = wire.hosts[1].events.iter().rev();
        let mut states = events.filter_map(|event| match event {
            Event::State(state, why) => Some((*state, why.clone())),
            _ => None,
        });
        states.next().unwrap()
    };
    place(&mut wire, Ok("10.0.0.2"));
    assert_eq!(last(&wire), (State::Up, String::new()));
    place(&mut wire, Err("no"));
    let (state, why) = last(&wire);
    assert_eq!(state, State::Waiting);
    assert!(why.contains("has the address 10.0.0.2 no longer"), "{why}");
    wire.pass(Duration::from_secs(3));
    assert_eq!(last(&wire), (state, why), "it is said once");
    place(&mut wire, Ok("10.0.0.2"));
    assert_eq!(last(&wire).0, State::Up);
}
