//! carve
fn main(){}
