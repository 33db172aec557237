//! SHA-256 (FIPS 180-4): arithmetic and table look-ups as programs do them.

/// Rounds for each block, and words of its message schedule.
const ROUNDS: usize = 64;
const BLOCK_BYTES: usize = 64;

/// FIPS 180-4, SHA-256 Constants: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const CONSTANTS: [u32; ROUNDS] = fractions(3);
/// Setting the Initial Hash Value: the same of the square roots of the first eight.
const INITIAL: [u32; 8] = fractions(2);

/// What FIPS 180-2, One-Block Message, gives for "abc".
const OF_ABC: [u32; 8] = [
    0xba78_16bf,
    0x8f01_cfea,
    0x4141_40de,
    0x5dae_2223,
    0xb003_61a3,
    0x9617_7a9c,
    0xb410_ff61,
    0xf200_15ad,
];

/// The first 32 bits of the fractional parts of the `degree`th roots of the first primes.
const fn fractions<const COUNT: usize>(degree: u32) -> [u32; COUNT] {
    let mut all = [0; COUNT];
    let (mut found, mut number) = (0, 2);
    while found < COUNT {
        if is_prime(number) {
            // The root of this is the wanted one times 2^32, and below 2^37.
            let power = (number as u128) << (32 * degree);
            let mut root = 0u128;
            let mut bit = 37;
            while bit > 0 {
                bit -= 1;
                let larger = root | 1 << bit;
                if larger.pow(degree) <= power {
                    root = larger;
                }
            }
            all[found] = root as u32;
            found += 1;
        }
        number += 1;
    }
    all
}

const fn is_prime(number: u32) -> bool {
    let mut divisor = 2;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    true
}

/// The digest of a message; of one whose last block has no room for the length, this is none.
pub(crate) fn digest(message: &[u8]) -> [u32; 8] {
    let mut hash = INITIAL;
    let (blocks, rest) = message.as_chunks();
    for block in blocks {
        add_block(&mut hash, block);
    }
    let mut last = [0; BLOCK_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    last[BLOCK_BYTES - 8..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
    add_block(&mut hash, &last);
    hash
}

/// FIPS 180-4, SHA-256 Hash Computation.
fn add_block(hash: &mut [u32; 8], block: &[u8; BLOCK_BYTES]) {
    let mut schedule = [0u32; ROUNDS];
    for (word, bytes) in schedule.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..ROUNDS {
        let (early, late) = (schedule[at - 15], schedule[at - 2]);
        let early = early.rotate_right(7) ^ early.rotate_right(18) ^ early >> 3;
        let late = late.rotate_right(17) ^ late.rotate_right(19) ^ late >> 10;
        schedule[at] = late
            .wrapping_add(schedule[at - 7])
            .wrapping_add(early)
            .wrapping_add(schedule[at - 16]);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *hash;
    for (word, constant) in schedule.into_iter().zip(CONSTANTS) {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h
            .wrapping_add(sum)
            .wrapping_add(e & f ^ !e & g)
            .wrapping_add(constant)
            .wrapping_add(word);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = sum.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f) = (g, f, e);
        e = d.wrapping_add(first);
        (d, c, b) = (c, b, a);
        a = first.wrapping_add(second);
    }
    for (sum, value) in hash.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *sum = sum.wrapping_add(value);
    }
}

/// What is not computed right is not worth measuring.
pub(crate) fn assert_is_right() {
    assert!(digest(b"abc") == OF_ABC);
}
