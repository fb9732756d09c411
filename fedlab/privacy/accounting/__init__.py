"""What has been released about whom, and what it comes to."""
