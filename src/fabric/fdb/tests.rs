use super::*;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn mac(n: u64) -> Mac {
    Mac::from_bits(0x5254_0000_0000 | n)
}

fn at(secs: u64) -> Tick {
    Tick::from_secs(secs)
}

fn small() -> Fdb {
    Fdb::new(FdbLimits {
        capacity: 16,
        per_port: 8,
        ageing: 10,
        ports: 4,
    })
}

const VLAN: Vid = Vid::DEFAULT;

#[test]
fn an_address_is_learned_moves_ages_and_is_flushed() {
    let fdb = small();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), None);
    fdb.learn(port(1), VLAN, mac(1), at(0)).unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(10)), Some(port(1)));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(11)), None);
    assert_eq!(fdb.lookup(Vid::new(2).unwrap(), mac(1), at(0)), None);
    fdb.learn(port(2), VLAN, mac(1), at(5)).unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(15)), Some(port(2)));
    assert_eq!((fdb.learned(port(1)), fdb.learned(port(2))), (0, 1));
    fdb.flush_port(port(2));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(5)), None);
    assert_eq!(fdb.learned_total(), 0);
}
