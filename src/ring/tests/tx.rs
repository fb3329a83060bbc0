//! TX: what comes out, and that everything goes back.

use super::double::*;
use crate::ring::*;

const PLENTY: Budget = Budget {
    frames: 1 << 20,
    bytes: u32::MAX,
    descriptors: u32::MAX,
};

fn ring(driver: &Driver) -> TxRing {
    TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap()
}

/// Collects and completes one burst: for each chain its bytes or its fault.
fn round(
    driver: &Driver,
    ring: &mut TxRing,
    burst: &mut ChainBurst,
) -> Result<Vec<Result<Vec<u8>, ChainFault>>, RingBroken> {
    let count = ring.collect(burst, &mut PLENTY.clone())?;
    assert_eq!(count, burst.chains().len());
    let verdicts = burst
        .chains()
        .iter()
        .map(|chain| match chain.fault {
            Some(fault) => {
                assert_eq!((chain.len, burst.extents(chain).len()), (0, 0));
                Err(fault)
            }
            None => {
                let bytes = driver.gather(burst.extents(chain));
                assert_eq!(bytes.len(), chain.len as usize);
                Ok(bytes)
            }
        })
        .collect();
    ring.complete(burst);
    Ok(verdicts)
}

/// The verdict on the one chain with head 0, which must go back exactly once with length 0.
fn verdict(driver: &mut Driver, negotiated: Negotiated) -> Result<Vec<u8>, ChainFault> {
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, negotiated).unwrap();
    driver.offer([0]);
    let mut burst = ChainBurst::new();
    let verdicts = round(driver, &mut ring, &mut burst).unwrap();
    assert_eq!(driver.returned(), [(0, 0)]);
    assert_eq!(round(driver, &mut ring, &mut burst).unwrap(), []);
    assert_eq!(driver.returned(), []);
    assert!(!driver.memory.faulted());
    let [verdict] = <[_; 1]>::try_from(verdicts).unwrap();
    verdict
}

#[test]
fn a_burst_comes_out_in_order_and_goes_back_in_order() {
    let mut driver = Driver::new(256, 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut heads = Vec::new();
    for i in 0..100u16 {
        let head = 2 * ((i * 7) % 100);
        let at = BUFFERS + 2048 * u64::from(i);
        driver.poke(at, &pattern(72, usize::from(i)));
        if i % 2 == 0 {
            driver.chain(head, &[(at, 72)], 0);
        } else {
            driver.chain(head, &[(at, 12), (at + 12, 60)], 0);
        }
        heads.push(head);
    }
    driver.offer(heads.iter().copied());
    let mut frames = round(&driver, &mut ring, &mut burst).unwrap();
    assert_eq!(frames.len(), BURST);
    frames.extend(round(&driver, &mut ring, &mut burst).unwrap());
    let expected: Vec<_> = (0..100).map(|i| Ok(pattern(72, i))).collect();
    assert_eq!(frames, expected);
    let returned: Vec<_> = heads.iter().map(|head| (u32::from(*head), 0)).collect();
    assert_eq!(driver.returned(), returned);
    assert_eq!(ring.next(), 100);
    assert!(!ring.pending());
}

#[test]
fn a_completed_burst_is_not_returned_twice() {
    let mut driver = Driver::new(8, 65_533);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.chain(0, &[(BUFFERS, 64)], 0);
    driver.offer([0, 0, 0, 0]);
    ring.collect(&mut burst, &mut PLENTY.clone()).unwrap();
    assert_eq!(driver.returned(), []);
    ring.complete(&burst);
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0); 4]);
    assert_eq!(ring.next(), 1);
}

#[test]
fn q_3_an_indirect_table_is_read_like_a_chain() {
    let mut driver = Driver::new(16, 0);
    driver.poke(BUFFERS, &pattern(3000, 1));
    let pieces = [(BUFFERS, 12), (BUFFERS + 12, 988), (BUFFERS + 1000, 2000)];
    driver.table(0, BUFFERS + 0x1_0000, &pieces, 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(3000, 1)));
}
