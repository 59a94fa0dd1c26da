//! The program: words typed in, a watch or a question carried out, an exit code.
fn main() {}
