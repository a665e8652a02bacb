mod batch;
mod link;
