//! Every kernel against its scalar oracle and against f64, on every instruction set of this
//! machine.

mod attend;
mod gemm;
mod repacked;
mod vector;
mod weights;
