#!/bin/sh
# Makes the tables of the back end dynamo, as documents 001 and 003 define them, with the AWS command line.
#
#   sh emqx_backend_dynamo.sh                                      on AWS, in the region of REGION
#   ENDPOINT=http://localhost:8000 sh emqx_backend_dynamo.sh       on a local DynamoDB
set -eu

region=${REGION:-us-west-2}

create() {
    aws dynamodb create-table --provisioned-throughput ReadCapacityUnits=5,WriteCapacityUnits=5 \
        --region "$region" ${ENDPOINT:+--endpoint-url "$ENDPOINT"} --table-name "$@"
}

create mqtt_client \
    --attribute-definitions AttributeName=clientid,AttributeType=S \
    --key-schema AttributeName=clientid,KeyType=HASH

create mqtt_retain \
    --attribute-definitions AttributeName=topic,AttributeType=S \
    --key-schema AttributeName=topic,KeyType=HASH

create mqtt_sub \
    --attribute-definitions AttributeName=clientid,AttributeType=S AttributeName=topic,AttributeType=S \
    --key-schema AttributeName=clientid,KeyType=HASH AttributeName=topic,KeyType=RANGE

create mqtt_msg \
    --attribute-definitions AttributeName=msgid,AttributeType=S \
    --key-schema AttributeName=msgid,KeyType=HASH

create mqtt_topic_msg_map \
    --attribute-definitions AttributeName=topic,AttributeType=S \
    --key-schema AttributeName=topic,KeyType=HASH

create mqtt_acked \
    --attribute-definitions AttributeName=topic,AttributeType=S AttributeName=clientid,AttributeType=S \
    --key-schema AttributeName=topic,KeyType=HASH AttributeName=clientid,KeyType=RANGE
