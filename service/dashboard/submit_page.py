"""The form that queues a job."""
