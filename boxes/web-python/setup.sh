#!/bin/sh -e
python3 -m gunicorn --version
python3 -m pip --version
systemctl restart site
