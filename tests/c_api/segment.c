/* Segments a volume with a SavedModel through TensorFlow's C interface, without Python.
 *
 *     segment MODEL INPUT_OP OUTPUT_OP OUTPUT_NUMBER I J K < volume > labels
 *
 * The volume is I * J * K float32 in C order, the labels are as many uint8.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static void require(TF_Status* status) {
    if (TF_GetCode(status) != TF_OK) {
        fprintf(stderr, "%s\n", TF_Message(status));
        exit(1);
    }
}

static TF_Operation* find(TF_Graph* graph, const char* name) {
    TF_Operation* operation = TF_GraphOperationByName(graph, name);
    if (operation == NULL) {
        fprintf(stderr, "%s: no such operation\n", name);
        exit(1);
    }
    return operation;
}

int main(int argc, char** argv) {
    if (argc != 8) {
        fprintf(stderr, "seven arguments\n");
        return 2;
    }
    TF_Status* status = TF_NewStatus();
    TF_Graph* graph = TF_NewGraph();
    TF_SessionOptions* options = TF_NewSessionOptions();
    const char* tags[] = {"serve"};
    TF_Session* session =
        TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
    require(status);

    int64_t shape[] = {1, atoll(argv[5]), atoll(argv[6]), atoll(argv[7])};
    size_t voxels = (size_t)(shape[1] * shape[2] * shape[3]);
    TF_Tensor* volume = TF_AllocateTensor(TF_FLOAT, shape, 4, voxels * sizeof(float));
    if (fread(TF_TensorData(volume), sizeof(float), voxels, stdin) != voxels) {
        fprintf(stderr, "the volume is too short\n");
        return 1;
    }
    TF_Output input = {find(graph, argv[2]), 0};
    TF_Output output = {find(graph, argv[3]), atoi(argv[4])};
    TF_Tensor* labels = NULL;
    TF_SessionRun(session, NULL, &input, &volume, 1, &output, &labels, 1, NULL, 0, NULL, status);
    require(status);
    if (TF_TensorType(labels) != TF_UINT8 || TF_TensorByteSize(labels) != voxels) {
        fprintf(stderr, "these are no labels\n");
        return 1;
    }
    fwrite(TF_TensorData(labels), 1, voxels, stdout);

    TF_DeleteTensor(volume);
    TF_DeleteTensor(labels);
    TF_CloseSession(session, status);
    TF_DeleteSession(session, status);
    TF_DeleteGraph(graph);
    TF_DeleteSessionOptions(options);
    TF_DeleteStatus(status);
    return 0;
}
