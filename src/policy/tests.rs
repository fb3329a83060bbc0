use super::*;
#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: u16) -> PortId {
        PortId::new(index).unwrap()
    }

    fn judge(dst: &str, src: &str) -> Result<(), DropReason> {
        let mut bytes = [0; 60];
        bytes[..6].copy_from_slice(&dst.parse::<Mac>().unwrap().octets());
        bytes[6..12].copy_from_slice(&src.parse::<Mac>().unwrap().octets());
        let frame = Frame::parse(&bytes, 60).unwrap();
        Policy::new(1, [port(3)]).admit(port(3), frame).map(drop)
    }

    const STATION: &str = "52:54:00:00:00:01";

    #[test]
    fn e_1_a_source_that_no_station_has_is_refused() {
        assert_eq!(judge(STATION, "52:54:00:00:00:02"), Ok(()));
        for source in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "53:54:00:00:00:01",
        ] {
            assert_eq!(
                judge(STATION, source),
                Err(DropReason::SourceMacInvalid),
                "{source}"
            );
        }
    }

    #[test]
    fn e_10_reserved_groups_are_refused_and_their_neighbours_are_not() {
        for low in 0..=0x3fu64 {
            let group = Mac::from_bits(0x0180_c200_0000 | low).to_string();
            let expected = if low < 0x10 || (0x20..0x30).contains(&low) {
                Err(DropReason::ReservedGroup)
            } else {
                Ok(())
            };
            assert_eq!(judge(&group, STATION), expected, "{group}");
        }
        for group in ["01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd"] {
            assert_eq!(
                judge(group, STATION),
                Err(DropReason::ReservedGroup),
                "{group}"
            );
        }
        for group in [
            "01:00:0c:cc:cc:ce",
            "33:33:00:00:00:01",
            "01:00:5e:00:00:fb",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(judge(group, STATION), Ok(()), "{group}");
        }
    }

    #[test]
    fn a_port_without_policy_passes_nothing_either_way() {
        let policy = Policy::new(7, [port(0), port(1023)]);
        let bytes = [2; 14];
        let frame = Frame::parse(&bytes, 14).unwrap();
        assert_eq!(
            policy.admit(port(1), frame).map(drop),
            Err(DropReason::NoPolicy)
        );
        let admitted = policy.admit(port(1023), frame).unwrap();
        assert_eq!(policy.permit(&admitted, port(1)), Err(DropReason::NoPolicy));
        let permit = policy.permit(&admitted, port(0)).unwrap();
        assert_eq!((permit.from(), permit.to()), (port(1023), port(0)));
    }
}
